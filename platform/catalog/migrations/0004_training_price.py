"""Training has a price of its own."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0003_project_restrictions")]

    operations = [
        migrations.AlterField(
            model_name="price",
            name="kind",
            field=models.CharField(
                choices=[("online", "Online"), ("batch", "Batch"), ("training", "Training")], max_length=16
            ),
        ),
    ]
