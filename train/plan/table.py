"""Prints a plan of `train.plan` as tables, at most 100 columns wide."""

from typing import Any

from rich.console import Console
from rich.table import Table

from conf.duration import format_duration

GIB = 2**30


def show(plan: dict[str, Any]) -> None:
    """Print the plan as tables, at most 100 columns wide."""
    console = Console(width=100, highlight=False)
    log = console.print
    sequence = " with sequence parallelism" if plan["sequence_parallel"] else ""
    log(
        f"[bold]{plan['model']}[/bold], {plan['model_parameters'] / 1e9:.2f} B parameters, "
        f"on {plan['gpus']} GPUs, layout {plan['layout']}"
    )
    log(
        f"tensor {plan['tensor_parallel_size']}{sequence} x pipeline {plan['pipeline_parallel_size']} x data "
        f"{plan['data_parallel_size']}, ZeRO-{plan['zero_stage']} ({plan['optimizer_class']}), {plan['precision']}, "
        f"recompute {plan['recompute']}, offload {plan['offload']}"
    )
    log(
        f"a step of stage {plan['training_stage']}: {plan['global_batch_size']} sequences, "
        f"{plan['tokens_per_step']:,} tokens, {plan['micro_batches']} micro-batches of {plan['micro_batch_size']}, "
        f"pipeline bubble {plan['pipeline_bubble']:.1%}, {plan['tflop_per_step_per_gpu']:,.1f} TFLOP a GPU\n"
    )
    log(
        f"a checkpoint: {plan['checkpoint_bytes'] / 1e9:,.1f} GB, {plan['save_seconds']:,.0f} s at 1 GB/s; "
        f"a Slurm job is warned {plan['warning_seconds']} s before its time limit\n"
    )
    table = Table(title="GiB on one GPU of each pipeline stage", title_justify="left")
    for column in (
        "stage",
        "layers",
        "parameters",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "working",
        "total",
    ):
        table.add_column(column, justify="right")
    for number, stage in enumerate(plan["pipeline_stages"]):
        first, end = stage["layers"]
        parts = [
            f"{stage[k] / GIB:.2f}" for k in ("weights", "gradients", "optimizer", "activations", "working", "total")
        ]
        table.add_row(str(number), f"{first}-{end - 1}", f"{stage['parameters'] / 1e6:,.1f} M", *parts)
    log(table)
    last, fullest = plan["pipeline_stages"][-1], max(plan["pipeline_stages"], key=lambda stage: stage["total"])
    flights = ", ".join(str(stage["in_flight"]) for stage in plan["pipeline_stages"])
    log(f"Activations: saved by the micro-batches in flight ({flights} by pipeline stage).")
    log(
        f"Working: temporary tensors of the running micro-batch, and DeepSpeed's buffers. The chunked loss "
        f"of the last pipeline stage takes {last['loss'] / GIB:.2f}, counted in activations and working."
    )
    log(
        f"Total: the peak of forward and backward, optimizer step ({fullest['optimizer_step'] / GIB:.2f} instead "
        f"of activations and working) and initialization ({fullest['initialization'] / GIB:.2f}, one layer in fp32)."
    )
    if fullest["host"]:
        log(f"Host memory for what is offloaded: {fullest['host'] / GIB:.2f} GiB a process.")
    memory = plan["device_memory_gib"]
    if memory is None:
        log("Not checked against a GPU's memory; add cluster.device_memory_gib=80 for 80 GB GPUs.\n")
    else:
        log(f"A GPU has {memory:g} GiB, {plan['usable'] / GIB:.1f} usable (the rest: CUDA, NCCL, fragmentation).\n")
    show_collectives(plan, log)
    show_time(plan, log)


def show_time(plan: dict[str, Any], log: Any) -> None:
    """Print the predicted seconds of a step by part, and rates that others published beside their prediction."""
    table = Table(title="Seconds of one step, predicted from cluster.gpu", title_justify="left")
    for name in (*plan["seconds"], "step"):
        table.add_column(name.replace("_", " "), justify="right", min_width=6)
    table.add_row(*(f"{value:.3f}" for value in (*plan["seconds"].values(), plan["step_seconds"])))
    log(table)
    log(
        f"MFU {plan['mfu']:.1%}, {plan['tokens_per_second']:,.0f} tokens/s; saving, evaluation and input not counted.\n"
    )
    seconds = plan["stage_seconds"]
    each = ", ".join(f"{name} {format_duration(value)}" for name, value in seconds.items())
    total = sum(seconds.values())
    log(f"At that rate: {each}; in all {format_duration(total)}, {total * plan['gpus'] / 3600:,.0f} GPU hours.\n")
    if plan["offload"] != "none":
        log("What is offloaded takes longer: neither its way to the host nor AdamW there is in this time.\n")
    if plan["precision"] == "fp32":
        log("It is the time in bf16; fp32 takes about ten times as long on an A100 or H100.\n")
    show_goodput(plan, log)
    if not plan["published"]:
        return
    table = Table(title="The same prediction for runs that were published", title_justify="left")
    for column in ("run", "GPUs", "MFU", "predicted", "error"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for row in plan["published"]:
        error = row["predicted"] / row["mfu"] - 1
        shares = (f"{row['mfu']:.1%}", f"{row['predicted']:.1%}", f"{error:+.1%}")
        table.add_row(f"{row['source']} {row['model']}", str(row["gpus"]), *shares)
    log(table)


def show_goodput(plan: dict[str, Any], log: Any) -> None:
    """Print the share of a long run's time that trains kept steps, with what it is computed from."""
    of = plan["goodput"]
    measured = {
        what: "as the run measured" if of[f"{what}_measured"] else "not measured yet" for what in ("save", "restart")
    }
    measured["save"] += "" if of["save_measured"] else ": 1 GB/s, training waits"
    shares = ", ".join(f"{share:.1%} at {float(s) / 60:.3g} min" for s, share in of["by_restart_seconds"].items())
    log(f"Goodput (share of wall time that trains kept steps) by the minutes of a restart: {shares}.")
    log(
        f"It counts a failure every {of['hours_a_failure']:,.0f} h, as often a GPU as Llama 3's 419 in 54 days on "
        f"16,384; a save every {of['seconds_between_saves'] / 60:,.1f} min (run.save_every), a stall of "
        f"{of['stall_seconds']:.3g} s and a drain of {of['drain_seconds']:.3g} s ({measured['save']}); "
        f"restarts {measured['restart']}. Llama 3 reports above 90% "
        f"on its 16,384 GPUs (arXiv 2407.21783, 3.3.4).\n"
    )


def show_best(title: str, rows: list[dict[str, Any]], command: str) -> None:
    """Print the layouts of `train.plan best=true`, the fastest first, and the command that launches it."""
    console = Console(width=100, highlight=False)
    table = Table(title=f"Fastest layouts of {title}", title_justify="left")
    names = {
        "step_seconds": "s a step",
        "mfu": "MFU",
        "memory": "GiB",
        "zero_stage": "ZeRO",
        "zero.hpz_partition_size": "hpz",
    }
    for key in rows[0]:
        table.add_column(names.get(key, key.replace("_", " ").removesuffix(" size")), justify="right")
    for row in rows:
        figures = (f"{row['step_seconds']:.3f}", f"{row['mfu']:.1%}", f"{row['memory'] / GIB:.1f}")
        table.add_row(*(str(row[key]) for key in list(row)[:-3]), *figures)
    console.print(table)
    console.print(command, soft_wrap=True)


def show_collectives(plan: dict[str, Any], log: Any) -> None:
    """Print the bytes sent in one step by kind of collective, on the pipeline stage that sends most of that kind."""
    kinds = sorted({kind for stage in plan["pipeline_stages"] for kind in stage["collectives"]}, reverse=True)
    if not kinds:
        log("One process: nothing is sent.")
        return
    table = Table(
        title="Sent in one optimizer step, by one process of the busiest pipeline stage", title_justify="left"
    )
    for column in ("kind", "stage", "calls", "GiB"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind in kinds:
        found = {n: s["collectives"][kind] for n, s in enumerate(plan["pipeline_stages"]) if kind in s["collectives"]}
        stage = max(found, key=lambda number: found[number]["bytes"])
        calls = found[stage]["calls"]
        table.add_row(kind, str(stage), f"{calls:,}" if calls else "in buckets", f"{found[stage]['bytes'] / GIB:,.2f}")
    log(table)
    log("GiB: size of the whole tensors, before the collective algorithm splits them.")
