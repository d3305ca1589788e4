"""Recipes: one small file each, checked when the process starts, and their samples fit them."""

import shutil
from pathlib import Path

import pytest

from catalog.models import BaseModel
from finetuning.recipes import FOLDER, AnswerKind, all_recipes, load_recipes
from tests.support.cast import Cast
from tests.support.training import prepare, records, report, store, upload

SUMMARISING = """
title = "Summarising"
description = "Says in a sentence what a text says."
metrics = ["rouge"]
sample = "summarising.csv"

[columns.text]
description = "The text."

[columns.summary]
description = "What it says."

[[messages]]
role = "user"
content = "Summarise: {{text}}"

[[messages]]
role = "assistant"
content = "{{summary}}"

[answer]
kind = "text"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one recipe more."""
    copy = tmp_path / "recipes"
    shutil.copytree(FOLDER, copy)
    (copy / "summarising.toml").write_text(SUMMARISING)
    (copy / "summarising.csv").write_text("text,summary\nIt rains and rains.,Rain.\n")
    return copy


def test_a_new_recipe_is_one_file_with_its_sample(folder: Path) -> None:
    added = load_recipes(folder)
    assert added.keys() - all_recipes().keys() == {"summarising"}
    recipe = added["summarising"]
    assert recipe.template.fill({"text": "It rains.", "summary": "Rain."}) == {
        "messages": [
            {"role": "user", "content": "Summarise: It rains."},
            {"role": "assistant", "content": "Rain."},
        ]
    }


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('title = "Summarising"\n', "", "title"),
        ('metrics = ["rouge"]', 'metrics = ["beauty"]', "metrics must be some of"),
        ('metrics = ["rouge"]', "metrics = []", "metrics must be some of"),
        ("summarising.csv", "nothing.csv", "there is no sample"),
        ("{{summary}}", "{{sum}}", "columns that are not described"),
        ('kind = "text"', 'kind = "poem"', "poem"),
        ('kind = "text"', 'kind = "text"\ncolour = "red"', "unknown: colour"),
        ('role = "assistant"', 'role = "user"', "the last message must be the assistant's"),
        ("[answer]", "[hyperparameters]\nspeed = 1\n[answer]", "unknown: speed"),
        ("[answer]", "[answer", "TOMLDecodeError"),
        ('title = "S', 'extends = "nothing"\ntitle = "S', "there is no recipe nothing"),
    ],
)
def test_a_recipe_that_is_none_stops_the_start_and_is_named(folder: Path, old: str, new: str, reason: str) -> None:
    (folder / "summarising.toml").write_text(SUMMARISING.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"summarising\.toml") as caught:
        load_recipes(folder)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", sorted(all_recipes()))
def test_the_sample_of_a_recipe_fits_it(cast: Cast, base: BaseModel, name: str) -> None:
    recipe = all_recipes()[name]
    content = recipe.sample.read_bytes()
    file_id = upload(cast.alice, content, filename=recipe.sample.name)
    found = report(cast.alice, file_id, recipe=name)
    assert 20 <= found["rows"]["valid"] == found["rows"]["total"] <= 40
    assert found["duplicates"]["exact"]["rows"] == found["duplicates"]["same_question"]["rows"] == 0
    assert found["sensitive"] == []
    prepared = prepare(
        base, store(cast.alice, content, filename=recipe.sample.name), recipe=name, validation_fraction=0.3
    )
    assert prepared.problems == []
    evaluation = records(prepared.evaluation)
    assert {"choices" in row for row in evaluation} == {recipe.answer.kind == AnswerKind.CHOICES}
    assert prepared.labels is None or len(prepared.labels) in (3, 4)


def test_recipes_are_listed_with_what_they_need(cast: Cast) -> None:
    listed = cast.alice.client.get("/v1/fine_tuning/recipes").json()
    names = [recipe["id"] for recipe in listed["data"]]
    assert names == sorted(all_recipes())
    assert {"customer-service", "extraction", "free-generation", "sentiment", "text-classification"} <= set(names)
    assert (listed["object"], listed["first_id"], listed["last_id"]) == ("list", names[0], names[-1])
    assert listed["has_more"] is False
    recipe = next(recipe for recipe in listed["data"] if recipe["id"] == "sentiment")
    assert cast.alice.client.get("/v1/fine_tuning/recipes/sentiment").json() == recipe
    assert recipe["object"] == "fine_tuning.recipe"
    assert [(column["name"], column["required"]) for column in recipe["columns"]] == [("text", True), ("label", True)]
    assert recipe["answer"]["choices"] == ["negative", "neutral", "positive"]
    assert recipe["metrics"][0] == "accuracy"
    assert recipe["hyperparameters"]["n_epochs"] == 3
    assert [message["role"] for message in recipe["messages"]] == ["system", "user", "assistant"]


def test_a_sample_is_downloaded_as_it_is(cast: Cast) -> None:
    answer = cast.alice.client.get("/v1/fine_tuning/recipes/sentiment/sample")
    assert answer.content == all_recipes()["sentiment"].sample.read_bytes()
    assert 'filename="sentiment.csv"' in answer["Content-Disposition"]


@pytest.mark.parametrize("path", ["unknown", "unknown/sample", "..%2Fsentiment", "sentiment.toml"])
def test_a_recipe_that_is_not_there_is_not_found(cast: Cast, path: str) -> None:
    answer = cast.alice.client.get(f"/v1/fine_tuning/recipes/{path}")
    assert answer.status_code == 404
