"""The routes."""

from django.urls import path

from shelf import views

urlpatterns = [
    path("books/<str:isbn>", views.book),
    path("loans/<uuid:key>", views.loan),
    path("readyz", views.ready),
    path("health", views.health),
]
