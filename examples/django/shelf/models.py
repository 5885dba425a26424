"""The tables."""

from django.db import models


class Book(models.Model):
    """A book with the number of its copies on the shelf."""

    isbn = models.CharField(max_length=13, primary_key=True)
    title = models.TextField()
    copies = models.PositiveIntegerField()


class Loan(models.Model):
    """The loan of one copy."""

    key = models.UUIDField(primary_key=True)
    book = models.ForeignKey(Book, on_delete=models.PROTECT)
