"""Routes below ``/v1``."""

from django.urls import path

from billing.api import BalanceView, LedgerView, OrganizationListView

urlpatterns = [
    path("organizations", OrganizationListView.as_view()),
    path("organization/balance", BalanceView.as_view()),
    path("organization/ledger", LedgerView.as_view()),
]
