"""What lies in the tests' storage; it is emptied once a session, so compare before and after."""

from tests.services import storage_root


def blobs() -> set[str]:
    """Every file, the temporary ones of uploads included."""
    return {str(path.relative_to(storage_root())) for path in storage_root().rglob("*") if path.is_file()}
