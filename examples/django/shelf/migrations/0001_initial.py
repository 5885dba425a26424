"""Create the tables of books and loans."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """Create the tables."""

    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Book",
            fields=[
                ("isbn", models.CharField(max_length=13, primary_key=True, serialize=False)),
                ("title", models.TextField()),
                ("copies", models.PositiveIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name="Loan",
            fields=[
                ("key", models.UUIDField(primary_key=True, serialize=False)),
                ("book", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="shelf.book")),
            ],
        ),
    )
