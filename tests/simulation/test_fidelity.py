"""The database in memory is PostgreSQL, as far as the stores can tell."""

from simulation_process import simulate

SEEDS = 10


def test_postgresql_gives_the_same_answer_to_each_statement_of_whole_worlds(
    database_url: str, database_schema: str
) -> None:
    """Rows, counts and who waits for whom; and afterwards every table is the same."""
    done = simulate("--postgres", database_url, "--schema", database_schema, "--seeds", str(SEEDS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agree") == SEEDS
