"""A module whose import fails for a reason of its own."""

import no_such_dependency  # type: ignore[import-not-found]  # noqa: F401
