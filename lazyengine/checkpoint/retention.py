"""Which checkpoints may go: derived from the folder, the pointer and what the files say of themselves."""

from __future__ import annotations

import os

from .finding import EXTENSIONS, best_of_name, find_latest_checkpoint, list_checkpoints, or_none, summary_of


def check_filename_template(template: str) -> str | None:
    """Return why files with such names would not be found again, or None; ``{}`` stands for the number."""
    rest = template.replace("{}", "", 1)
    has_one_number = rest != template and not set("{}") & set(rest)
    is_name = template == os.path.basename(template) and not template.startswith(".")
    if has_one_number and is_name and template.endswith(EXTENSIONS):
        if best_of_name(template.format(0)) is None:
            return None
        return "best checkpoints, which save_best writes, have such names; let them begin with another word."
    return (
        f"expected a file name with one {{}} for the number and without a folder, that ends in {', '.join(EXTENSIONS)} "
        "and does not begin with a dot, such as 'epoch_{}.pth'; set out_dir for the folder."
    )


def superseded_checkpoints(
    folder: str, written: str | None, run_id: str | None, template: str, by_epoch: bool, max_keep: int
) -> list[str]:
    """Return the checkpoints that may be deleted now that `written` is in place; newest first.

    These are files of the same run in the same folder, not further on, whose name is what their own position gives:
    the interval's beyond the newest `max_keep`, and of each metric the best ones before its newest. A file under
    another name (a copy), of another run or without a word of its run stays, as does what the pointer names.

    Args:
        folder: The folder of the checkpoints.
        written: Name of a checkpoint that was just saved there; None for what the pointer names.
        run_id: The run whose files may be deleted; none is where `written` is of another one.
        template: Name of the interval's checkpoints, with ``{}`` for the number.
        by_epoch: Whether that is the number of epochs (or passes) or of iterations.
        max_keep: How many of the interval's stay; -1 for all.
    """
    pointed = os.path.basename(or_none(find_latest_checkpoint, folder) or "")
    last = written or pointed
    latest = or_none(summary_of, os.path.join(folder, last))
    if latest is None or not run_id or latest.run_id != run_id:
        return []
    seen: set[str] = set()
    num_left = max_keep - (best_of_name(last) is None)
    superseded: list[str] = []
    for path in list_checkpoints(folder):
        name, summary = os.path.basename(path), or_none(summary_of, path)
        if summary is None or summary.run_id != run_id or summary.iter > latest.iter:
            continue
        metric, unit, number = best_of_name(name) or ("", "", 0)
        is_stale = False
        if metric and number == getattr(summary, unit):
            is_stale = metric in seen
            seen.add(metric)
        elif name != last and name == template.format(summary.epoch if by_epoch else summary.iter):
            num_left -= 1
            is_stale = max_keep > 0 and num_left < 0
        if is_stale and name not in (last, pointed):
            superseded.append(path)
    return superseded
