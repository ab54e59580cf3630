"""What every sweep leaves in its run folder and shows at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quantprobe.cli.shared.output import Output

if TYPE_CHECKING:
    from quantprobe.report.results_view import ResultsView
    from quantprobe.run.results_file import Json, Sweep


def finish_run(result: Sweep, run: Path, output: Output) -> ResultsView:
    """Write the results, tables and pictures into `run`, and show the tables."""
    from quantprobe.run.results_file import results_document

    document = results_document(result)
    view, written = write_run(document, run)
    show_texts(view, output)
    show_tasks(view, output)
    for quant in result.quants:
        for text, statistics in quant.llama.items():
            output.say(f"{quant.info.name} on {text}, as llama-perplexity prints it:\n\n{statistics.format()}")
    if view.text_names:
        output.say("KLD in nats per token, ± one standard error (clustered by window); results.md says how to read it.")
    if view.task_names:
        output.say(f"Which answers changed: quantprobe flips {run} QUANT")
    output.say(f"Written to {run}: {', '.join(written)}")
    output.write_json(document)
    return view


def write_run(document: dict[str, Json], run: Path) -> tuple[ResultsView, list[str]]:
    """results.json, the tables and the pictures of a run; its view, and the names of what was written."""
    from quantprobe.files import write_text
    from quantprobe.report.results_view import read_results
    from quantprobe.report.tables import texts as tables
    from quantprobe.report.tables.groups_csv import csv_groups
    from quantprobe.report.tables.tasks import csv_tasks
    from quantprobe.run.results_file import write_json

    write_json(document, run / "results.json")
    view = read_results(run / "results.json")
    files = {"results.csv": tables.csv_text(view)} if view.text_names else {}
    files |= {"results_tasks.csv": csv_tasks(view)} if view.task_names else {}
    groups = csv_groups(document)
    files |= {"results_groups.csv": groups} if groups else {}
    files["results.md"] = tables.markdown(view)
    for name, text in files.items():
        write_text(run / name, text)
    return view, ["results.json", *files, *draw_pictures(view, run)]


def show_texts(view: ResultsView, output: Output) -> None:
    """The tables of all texts and what holds for each."""
    from quantprobe.report.tables import texts as tables

    for text in view.text_names:
        output.table(tables.terminal_table(view, text, output.width))
        output.say("\n".join(tables.text_notes(view, text)) + "\n")


def show_tasks(view: ResultsView, output: Output) -> None:
    """The tables of all tasks and what holds for each."""
    from quantprobe.report.tables.tasks import task_notes, terminal_task_table

    for task in view.task_names:
        output.table(terminal_task_table(view, task, output.width))
        output.say("\n".join(task_notes(view, task)) + "\n")


def draw_pictures(view: ResultsView, run: Path) -> list[str]:
    """One picture per text; its file name carries the text's name where there are several."""
    from quantprobe.names import safe_name
    from quantprobe.report.plots.fidelity import plot_kld_vs_size, plot_points

    written: list[str] = []
    for text in view.text_names:
        name = "kld_vs_size.png" if len(view.text_names) == 1 else f"kld_vs_size-{safe_name(text)}.png"
        if not plot_points(view, text)[0]:  # every KLD is 0: the table says all there is
            continue
        plot_kld_vs_size(view, text, run / name)
        written.append(name)
    return written
