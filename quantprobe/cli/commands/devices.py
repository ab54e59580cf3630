"""quantprobe devices: what llama.cpp can compute on here."""

from __future__ import annotations

from dataclasses import asdict

import click

from quantprobe.cli.shared.options import json_option
from quantprobe.cli.shared.output import open_output


@click.command()
@json_option
def devices(json_path: str | None) -> None:
    """List the devices that llama.cpp can use on this machine, their memory, and the CPU's features.

    \b
    Examples:
      quantprobe devices
      quantprobe devices --json -
    """
    from quantprobe.engine.devices import list_devices, system_info, versions
    from quantprobe.report.tables.cells import Column, Table, plain_cell, text_cell

    with open_output(json_path) as output:
        found, known, features = list_devices(), versions(), system_info().strip(" |")
        columns = ("Device", "Kind", "Backend", "Free", "Total", "Description")
        units = {"Free": "GiB", "Total": "GiB"}
        rows = tuple(
            (
                *(text_cell(text) for text in (device.name, device.kind, device.backend)),
                *(plain_cell(n_bytes / 2**30) for n_bytes in (device.memory_free, device.memory_total)),
                text_cell(device.description),
            )
            for device in found
        )
        table = Table("devices", "Devices", tuple(Column(title, units.get(title, "")) for title in columns), rows)
        output.table(table)
        output.say(f"\nFeatures: {features}")
        output.say(f"llama.cpp {known.llama_cpp}, llama-cpp-python {known.llama_cpp_python}")
        devices = [asdict(device) for device in found]
        versions_entry = {**asdict(known), "backends": list(known.backends)}
        output.write_json({"devices": devices, "features": features, "versions": versions_entry})  # type: ignore[dict-item]
