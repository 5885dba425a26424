"""The state of a Postgres, apart from rows, that is compared between two tests.

It has two parts: the schema and settings of one database, and what all databases share. Each part has a fingerprint, so that the usual
comparison takes a millisecond. Each row of a catalog carries the number of the transaction that wrote it (xmin), and a copy of the
database keeps that number. So most catalogs are compared by the ids and xmin of their rows, whatever columns a version has. pg_class is
the exception, because TRUNCATE and CREATE INDEX write there too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_USER_SCHEMAS = "(select oid from pg_namespace where nspname not like 'pg\\_%')"

# Catalogs with a column oid, each with a condition that selects rows.
_BY_OID = {
    "pg_proc": f"oid >= 16384 and pronamespace in {_USER_SCHEMAS}",
    "pg_type": f"oid >= 16384 and typtype <> 'c' and typnamespace in {_USER_SCHEMAS}",
    "pg_trigger": "not tgisinternal",
    "pg_namespace": "nspname not like 'pg\\_%'",
    **dict.fromkeys(
        ("pg_attrdef", "pg_constraint", "pg_rewrite", "pg_collation", "pg_operator", "pg_cast", "pg_am", "pg_ts_config", "pg_ts_dict",
         "pg_conversion", "pg_opclass", "pg_opfamily"),
        "oid >= 16384",
    ),
    **dict.fromkeys(
        ("pg_enum", "pg_extension", "pg_policy", "pg_event_trigger", "pg_default_acl", "pg_publication", "pg_publication_rel",
         "pg_foreign_data_wrapper", "pg_foreign_server", "pg_user_mapping", "pg_statistic_ext", "pg_largeobject_metadata", "pg_language",
         "pg_transform"),
        "true",
    ),
}  # fmt: skip
# Other catalogs, each with the columns that identify a row and a condition that selects rows.
_COLUMNS_OF = f"""attrelid >= 16384 and attnum > 0 and attrelid in
    (select oid from pg_class where relkind in ('r', 'p', 'v', 'm', 'f', 'c') and relnamespace in {_USER_SCHEMAS})"""  # noqa: S608  # built from constants
_BY_KEY = {
    "pg_attribute": ("attrelid, attnum", _COLUMNS_OF),
    "pg_index": ("indexrelid", "indrelid >= 16384"),
    "pg_inherits": ("inhrelid, inhparent", "true"),
    "pg_largeobject": ("loid, pageno", "true"),
    "pg_description": (
        "objoid, classoid, objsubid",
        "objoid >= 16384 or (objoid = 2200 and classoid = 'pg_namespace'::regclass)",
    ),
}
_CLASSES = f"""
(select string_agg(concat_ws(',', oid, relname, relnamespace, relkind, relhastriggers, relrowsecurity, relforcerowsecurity, relowner,
    relacl, reloptions, relreplident, relispartition, reltablespace, relpersistence), ';' order by oid)
   from pg_class where oid >= 16384 and relnamespace in {_USER_SCHEMAS})"""  # noqa: S608  # built from constants
# Properties of the database itself, which DROP DATABASE deletes. They are found by name, because a copy has another id.
_DATABASE = """
(select concat_ws(',', pg_get_userbyid(datdba), datacl, datconnlimit, datallowconn, shobj_description(oid, 'pg_database'))
   from pg_database where datname = current_database()),
(select string_agg(concat_ws(',', case setrole when 0 then '' else pg_get_userbyid(setrole)::text end, setconfig), ';' order by setrole)
   from pg_db_role_setting where setdatabase = (select oid from pg_database where datname = current_database()))"""


def _sum(catalog: str, key: str, rows: str) -> str:
    return f"(select sum(hashtextextended(concat_ws(',', xmin, {key}), 0)) from {catalog} where {rows})"  # noqa: S608  # built from constants


_PRIVATE = ("pg_largeobject", "pg_user_mapping")  # for superusers only


def fingerprint(*, exclusive: bool) -> str:
    """Return the query for the fingerprint of a schema.

    The fingerprint changes with every object that is created, altered or dropped, not with rows, TRUNCATE or ANALYZE.

    Args:
        exclusive: True if the session is a superuser's. Other users can't read all catalogs.
    """
    keys = {catalog: ("oid", rows) for catalog, rows in _BY_OID.items()} | _BY_KEY
    sums = [_sum(catalog, key, rows) for catalog, (key, rows) in keys.items() if exclusive or catalog not in _PRIVATE]
    return f"select md5(concat_ws('|', {_CLASSES}, {_DATABASE}, {', '.join(sums)}))"


# True if a database has objects that a new database does not have, so that a restore needs a copy.
HAS_OBJECTS = f"""
select exists (select from pg_class where oid >= 16384)
    or exists (select from pg_proc where oid >= 16384 and pronamespace in {_USER_SCHEMAS})
    or exists (select from pg_type where oid >= 16384) or exists (select from pg_extension where oid >= 16384)
    or exists (select from pg_namespace where oid >= 16384) or exists (select from pg_event_trigger)
    or exists (select from pg_default_acl) or exists (select from pg_publication) or exists (select from pg_largeobject_metadata)
    or exists (select from pg_foreign_data_wrapper) or exists (select from pg_cast where oid >= 16384)
    or not exists (select from pg_namespace where nspname = 'public' and nspowner = 'pg_database_owner'::regrole
                     and nspacl::text = '{{pg_database_owner=UC/pg_database_owner,=U/pg_database_owner}}')
"""  # noqa: S608  # built from constants

_SETTINGS = """
select coalesce(datname, '') as database, case setrole when 0 then '' else pg_get_userbyid(setrole)::text end as role, setconfig as settings
  from pg_db_role_setting left join pg_database d on d.oid = setdatabase
"""
_ROLES = """
select rolname as name, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit,
       rolpassword, rolvaliduntil::text, shobj_description(oid, 'pg_authid') as comment
  from pg_authid where rolname not like 'pg\\_%'
"""
_MEMBERS = """
select pg_get_userbyid(roleid)::text as role, pg_get_userbyid(member)::text as member, bool_or(admin_option) as admin
  from pg_auth_members where roleid >= 16384 or member >= 16384 group by 1, 2
"""
_OBJECTS = """
select 'slot' as kind, slot_name::text as name, coalesce(database::text, '') as database from pg_replication_slots where not temporary
union all select 'prepared', gid, database::text from pg_prepared_xacts
union all select 'subscription', subname::text, datname::text from pg_subscription join pg_database d on d.oid = subdbid
union all select 'tablespace', spcname::text, '' from pg_tablespace
"""
_FILE = "pg_read_file('postgresql.auto.conf', 0, 1000000, true)"
FILE = f"select name, setting from pg_file_settings where sourcefile like '%postgresql.auto.conf' and {_FILE} <> ''"  # noqa: S608

# The fingerprint of what databases share. The settings of the database itself are in its own fingerprint.
CLUSTER = f"""
select md5(concat_ws('|',
  (select string_agg(r::text, ';' order by name) from ({_ROLES}) r),
  (select string_agg(m::text, ';' order by role, member) from ({_MEMBERS}) m),
  (select string_agg(s::text, ';' order by database, role) from ({_SETTINGS}) s where database <> current_database()),
  (select string_agg(o::text, ';' order by kind, name) from ({_OBJECTS}) o),
  {_FILE}))
"""  # noqa: S608  # built from constants

# The settings that only a start of the server applies, as far as a file may change them.
AT_START = (
    "select name, setting from pg_settings where context = 'postmaster' and source in ('configuration file', 'default')"
)

LISTS = (
    "search_path",
    "temp_tablespaces",
    "session_preload_libraries",
    "shared_preload_libraries",
    "local_preload_libraries",
)
_FLAGS = ("super", "inherit", "createrole", "createdb", "canlogin", "replication", "bypassrls")

Name = tuple[str, str]


class Cluster(NamedTuple):
    """The state that the databases of a server share.

    Args:
        roles: by name, their columns.
        members: by role and member, True if the member may grant the role.
        settings: by database and role ("" for all), NAME=VALUE.
        objects: (kind, name, database) of slots, prepared transactions, subscriptions and tablespaces.
        file: settings made by ALTER SYSTEM.
        at_start: settings that only a start of the server applies.
    """

    roles: Mapping[str, Mapping[str, Any]]
    members: Mapping[Name, bool]
    settings: Mapping[Name, list[str]]
    objects: frozenset[tuple[str, str, str]]
    file: Mapping[str, str]
    at_start: Mapping[str, str]

    @classmethod
    async def read(cls, session: Any) -> Cluster:
        """Read the state in a superuser's session."""
        return cls(
            {row["name"]: row.as_dict() for row in await session.fetch(_ROLES)},
            {(row["role"], row["member"]): row["admin"] for row in await session.fetch(_MEMBERS)},
            {(row["database"], row["role"]): list(row["settings"]) for row in await session.fetch(_SETTINGS)},
            frozenset((row["kind"], row["name"], row["database"]) for row in await session.fetch(_OBJECTS)),
            {row["name"]: row["setting"] for row in await session.fetch(FILE)},
            {row["name"]: row["setting"] for row in await session.fetch(AT_START)},
        )

    def role_back_to(self, baseline: Cluster, name: str) -> Iterator[str]:
        """Yield the statements that restore one role."""
        if name in self.roles and name in baseline.roles and self.roles[name] != baseline.roles[name]:
            yield from _role(baseline.roles[name], exists=True)

    def differences(self, baseline: Cluster) -> str:
        """Return the parts that differ from the baseline, with the names that differ in each."""
        differences = []
        for part in ("roles", "members", "settings", "file"):
            now, then = getattr(self, part), getattr(baseline, part)
            names = sorted(str(key) for key in now.keys() | then.keys() if now.get(key) != then.get(key))
            differences += [f"{part} of {', '.join(names)}"] if names else []
        differences += [f"{kind} {name}" for kind, name, _ in sorted(self.objects ^ baseline.objects)]
        return "; ".join(differences)

    def extra(self, baseline: Cluster, kind: str) -> list[tuple[str, str]]:
        """Return (name, database) of each object of a kind that the baseline does not have."""
        return sorted((name, database) for each, name, database in self.objects - baseline.objects if each == kind)

    def extra_roles(self, baseline: Cluster) -> list[str]:
        """Return the roles that the baseline does not have."""
        return sorted(self.roles.keys() - baseline.roles.keys())

    def back_to(self, baseline: Cluster, databases: set[str]) -> Iterator[str]:
        """Yield the statements that restore roles and settings, once extra roles are dropped.

        Args:
            baseline: the state to restore.
            databases: the existing databases; restored ones have no settings yet.
        """
        for name, columns in baseline.roles.items():
            if self.roles.get(name) != columns:
                yield from _role(columns, exists=name in self.roles)
        extra = set(self.extra_roles(baseline))
        kept = {pair: admin for pair, admin in self.members.items() if not extra & set(pair)}
        for role, member in kept.keys() - baseline.members.keys():
            yield f"revoke {quoted(role)} from {quoted(member)} cascade"
        for (role, member), admin in baseline.members.items():
            if kept.get((role, member)) != admin:
                yield f"revoke {quoted(role)} from {quoted(member)} cascade"
                yield f"grant {quoted(role)} to {quoted(member)}{' with admin option' if admin else ''}"
        for database, role in sorted(self.settings.keys() | baseline.settings.keys()):
            gone = (database and database not in databases) or (role and role not in baseline.roles)
            wanted = baseline.settings.get((database, role), [])
            if not gone and self.settings.get((database, role), []) != wanted:
                yield f"{_owner(database, role)} reset all"
                yield from settings_of(database, role, wanted)


def settings_of(database: str, role: str, settings: list[str]) -> Iterator[str]:
    """Yield the statements that set the settings of a database, a role, or a role in a database."""
    for setting in settings:
        name, _, value = setting.partition("=")
        yield f"{_owner(database, role)} set {assignment(name, value)}"


def assignment(name: str, value: str) -> str:
    """Return `NAME = VALUE` as in a statement. Each element of a list is quoted separately."""
    elements = _elements(value) if name in LISTS else [value]
    identifier = ".".join(quoted(part) for part in name.split("."))
    return f"{identifier} = {', '.join(map(literal, elements)) or literal('')}"


def _owner(database: str, role: str) -> str:
    if not role:
        return f"alter database {quoted(database)}" if database else "alter role all"
    return f"alter role {quoted(role)}{f' in database {quoted(database)}' if database else ''}"


def _role(role: Mapping[str, Any], *, exists: bool) -> Iterator[str]:
    name = quoted(role["name"])
    words = {"canlogin": "login", "super": "superuser"}
    if not exists:
        yield f"create role {name}"
    flags = " ".join(f"{'' if role[f'rol{flag}'] else 'no'}{words.get(flag, flag)}" for flag in _FLAGS)
    password = literal(role["rolpassword"]) if role["rolpassword"] is not None else "null"
    until = literal(role["rolvaliduntil"] or "infinity")
    yield f"alter role {name} with {flags} connection limit {role['rolconnlimit']} password {password} valid until {until}"
    if role["rolvaliduntil"] is None:  # no statement sets null, and "infinity" is another value
        yield f"update pg_authid set rolvaliduntil = null where rolname = {literal(role['name'])}"  # noqa: S608  # quoted
    comment = literal(role["comment"]) if role["comment"] is not None else "null"
    yield f"comment on role {name} is {comment}"


def _elements(value: str) -> list[str]:
    """Return the elements of a stored list, which are separated by commas and may have double quotes."""
    elements, text, inside = [], "", False
    for character in value:
        if character == '"':
            inside = not inside
        elif character == "," and not inside:
            elements.append(text.strip())
            text = ""
        else:
            text += character
    return [each for each in (*elements, text.strip()) if each]


def quoted(name: str) -> str:
    """Return a name as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as a string literal."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
