"""The types, as users meet them: code that is checked by mypy and pyright in their strict modes, and never run.

Each file reads as a user's code on one subject, with the real frameworks and servers. `refused.py` holds what must not
pass: each of its lines carries a comment for each checker, and a comment that suppresses nothing is an error. So a type
that grows too wide fails the check as well as one that grows too narrow.

They need the frameworks, so the ordinary runs of mypy and pyright leave them out. Where the extras ``test``,
``frameworks`` and ``types`` are installed: ``mypy tests/typing && pyright tests/typing``.
"""
