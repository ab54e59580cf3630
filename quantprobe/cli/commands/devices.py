"""quantprobe devices: what llama.cpp can compute on here."""

from __future__ import annotations

from dataclasses import asdict

import click

from quantprobe.cli.shared.options import json_option
from quantprobe.cli.shared.output import open_output


@click.command(short_help="List backends, devices, memory and CPU features.")
@json_option
def devices(json_path: str | None) -> None:
    """List what llama.cpp can compute on here.

    \b
    Examples:
      quantprobe devices
      quantprobe devices --json -
    """
    from rich.table import Table

    from quantprobe.engine.devices import list_devices, system_info, versions

    with open_output(json_path) as output:
        found, known, features = list_devices(), versions(), system_info().strip(" |")
        table = Table(box=None, pad_edge=False)
        for title in ("Device", "Kind", "Backend", "Free GiB", "Total GiB", "Description"):
            table.add_column(title, justify="right" if "GiB" in title else "left", overflow="fold")
        for device in found:
            memory = (f"{n_bytes / 2**30:.1f}" for n_bytes in (device.memory_free, device.memory_total))
            table.add_row(device.name, device.kind, device.backend, *memory, device.description)
        output.table(table)
        output.say(f"\nFeatures: {features}")
        output.say(f"llama.cpp {known.llama_cpp}, llama-cpp-python {known.llama_cpp_python}")
        devices = [asdict(device) for device in found]
        versions_entry = {**asdict(known), "backends": list(known.backends)}
        output.write_json({"devices": devices, "features": features, "versions": versions_entry})  # type: ignore[dict-item]
