"""All routes: ``/v1`` for customers, its reference, ``/_allauth`` to sign in, ``/internal/v1`` for nodes, health."""

from django.urls import include, path

import accounts.urls
import batches.urls
import billing.urls
import catalog.urls
import files.urls
import finetuning.urls
import fleet.urls
import metering.urls
import notifications.urls
import tenants.urls
from common import health, http, reference
from tenants.openapi import SchemaView
from tenants.person_api import AcceptInviteView

urlpatterns = [
    path("healthz", health.alive),
    path("readyz", health.ready),
    path(
        "v1/",
        include(
            [
                *tenants.urls.urlpatterns,
                *files.urls.urlpatterns,
                *catalog.urls.urlpatterns,
                *notifications.urls.urlpatterns,
                *batches.urls.urlpatterns,
                *finetuning.urls.urlpatterns,
                *metering.urls.urlpatterns,
                *billing.urls.urlpatterns,
                path("invites/accept", AcceptInviteView.as_view()),
                path("openapi.json", SchemaView.as_view()),
            ]
        ),
    ),
    path("docs", reference.page),
    path("docs/<str:name>", reference.asset),
    path("_allauth/", include(accounts.urls.urlpatterns)),
    path(
        "internal/v1/",
        include([*fleet.urls.urlpatterns, *batches.urls.internal_urlpatterns, *finetuning.urls.internal_urlpatterns]),
    ),
]

handler400 = http.bad_request
handler404 = http.unknown_url
handler500 = http.internal_error
