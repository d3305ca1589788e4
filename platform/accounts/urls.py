"""Routes of signing up and in, with django-allauth's own paths and shapes, so that its clients and documents fit.

Those of it that Hone does not offer (telephone numbers, several addresses of one person) are not here.
"""

from allauth.headless.account import views as account
from allauth.headless.base.views import APIView, ConfigView
from allauth.headless.mfa import views as mfa
from allauth.headless.usersessions import views as usersessions
from django.urls import path

from accounts.api import person_view

_VIEWS: dict[str, type[APIView]] = {
    "config": ConfigView,
    "auth/signup": account.SignupView,
    "auth/email/verify": account.VerifyEmailView,
    "auth/email/verify/resend": account.ResendEmailVerificationCodeView,
    "auth/login": account.LoginView,
    "auth/session": account.SessionView,
    "auth/sessions": usersessions.SessionsView,
    "auth/reauthenticate": account.ReauthenticateView,
    "auth/password/request": account.RequestPasswordResetView,
    "auth/password/reset": account.ResetPasswordView,
    "auth/2fa/authenticate": mfa.AuthenticateView,
    "auth/2fa/reauthenticate": mfa.ReauthenticateView,
    "account/password/change": account.ChangePasswordView,
    "account/authenticators": mfa.AuthenticatorsView,
    "account/authenticators/totp": mfa.ManageTOTPView,
    "account/authenticators/recovery-codes": mfa.ManageRecoveryCodesView,
}

urlpatterns = [path(f"app/v1/{route}", person_view(view)) for route, view in _VIEWS.items()]
