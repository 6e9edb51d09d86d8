"""``sparsegate doctor``: which tools are there."""

from __future__ import annotations

from dataclasses import asdict

import typer

from sparsegate_app import console
from sparsegate_app.cli.options import Json


def doctor(as_json: Json = False) -> None:
    """Show which tools are found, their versions, which are too old, and how to install what is missing.

    Exits with status 1 where a required tool is missing or too old.

    Example: [bold]sparsegate doctor --json[/]
    """
    from sparsegate_app import doctor as examination

    findings = examination.examine()
    good = examination.healthy(findings)
    if as_json:
        console.emit({"healthy": good, "tools": [asdict(finding) for finding in findings]}, True, "", [])
    else:
        rows = [
            (
                finding.name,
                finding.version or "-",
                finding.minimum or "any",
                finding.status if finding.status == "ok" or finding.required else f"{finding.status} (optional)",
                f"install with: {finding.install}" if finding.install else finding.purpose,
            )
            for finding in findings
        ]
        columns = ("tool", "found", "needed", "status", "for")
        console.stdout().print(console.table("tools", columns, rows))
        for finding in findings:
            if finding.status != "ok" and finding.required:
                console.error(f"{finding.name} is {finding.status}; '{finding.install}' provides it")
    if not good:
        raise typer.Exit(1)
