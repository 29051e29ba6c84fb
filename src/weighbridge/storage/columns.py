"""What all tables share: the metadata with its naming rules, and columns that many have."""

from sqlalchemy import BigInteger, Column, DateTime, MetaData, text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    },
)


def time_column(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def revision_column() -> Column[int]:
    return Column("revision", BigInteger, nullable=False, server_default=text("1"))
