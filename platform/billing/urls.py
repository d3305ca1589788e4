"""Routes below ``/v1``."""

from django.urls import path

from billing.api import BalanceView, CostListView, LedgerView, OrganizationListView, WhoAmIView

urlpatterns = [
    path("organizations", OrganizationListView.as_view()),
    path("organization/balance", BalanceView.as_view()),
    path("organization/ledger", LedgerView.as_view()),
    path("organization/costs", CostListView.as_view()),
    path("whoami", WhoAmIView.as_view()),
]
