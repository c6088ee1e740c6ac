"""The ``framepack`` command: make a video (again), train, evaluate, or verify against golden loops.

Exit status: 0 done, 1 failed (a file that cannot be read or written, weights that do not fit, a
verification out of tolerance), 2 a value that cannot be served, 130 interrupted. What goes wrong is
said in one sentence on standard error. Slow imports wait until a command needs them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from framepack.arguments import parse_arguments
from framepack.errors import FramepackError, InvalidRequest, ScheduleSyntaxError
from framepack.generation.method import ATTENTION_PATTERNS, NOISE_MODES, RANKINGS
from framepack.generation.orders import ORDERS
from framepack.generation.plan import (
    GENERATION_CONFIGS,
    GenerationRequest,
    Plan,
    PromptAt,
    plan_generation,
)
from framepack.generation.quality import QUALITY_NAMES
from framepack.packing.families import FAMILIES
from framepack.packing.report import add_packing_arguments
from framepack.reproduce import add_reproduce_arguments

if TYPE_CHECKING:
    from framepack.evaluation.world import Measured
    from framepack.generation.generate import Finished, Progress
    from framepack.presets import LoraFile
    from framepack.world.scene import Cast

TEACACHE_THRESHOLD = 0.15
"""The official demo's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse_arguments(_parser(), arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except InvalidRequest as error:
        shown = error.pointer() + "\n" if isinstance(error, ScheduleSyntaxError) else ""
        sys.stderr.write(f"{shown}framepack: {error}\n")
        return 2
    except FramepackError as error:
        sys.stderr.write(f"framepack: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("framepack: interrupted\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="framepack", description="Long videos from a picture and a prompt, or a prompt alone."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="make a video from a prompt and a picture"))
    reproduce = commands.add_parser("reproduce", help="make a video again from its manifest")
    add_reproduce_arguments(reproduce)
    _add_verify(commands.add_parser("verify", help="compare section loops with golden numbers"))
    _add_train(commands.add_parser("train", help="train a preset, or a LoRA for it"))
    _add_lora(commands.add_parser("lora", help="say what a LoRA changes, or convert it"))
    _add_evaluate(commands.add_parser("evaluate", help="measure videos where the truth is known"))
    add_packing_arguments(commands.add_parser("packing", help="what a packing schedule costs"))
    plan_memory = commands.add_parser("plan-memory", help="what fits a device of some memory")
    _add_plan_memory(plan_memory)
    _add_codebook(commands.add_parser("codebook", help="fit a codebook of discretised history"))
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "image",
        type=Path,
        nargs="?",
        metavar="IMAGE",
        help="start picture (PNG, JPEG or WebP); none: text-to-video",
    )
    add("prompt", metavar="PROMPT")
    add("-o", "--output", type=Path, required=True, metavar="OUT.mp4")
    add("--preset", default="tiny", help=f"one of: {', '.join(GENERATION_CONFIGS)} (%(default)s)")
    add("--weights", type=Path, metavar="FOLDER", help="local weights instead of the hub's")
    _add_loras(parser)
    add("--device", help="cpu, cuda, cuda:1 ... (a GPU if there is one)")
    add(
        "--placement",
        default="resident",
        help="what lies on the device: resident, staged, streamed[:BLOCKS], any of them with "
        "+float8, +float8mm or +hostcodec (%(default)s); see plan-memory",
    )
    add("--seconds", type=float, default=5.0, help="length; sections are whole (%(default)s)")
    add("--steps", type=int, help="denoising steps a section (the preset's)")
    add("--seed", type=int, default=31337, help="of all noise (%(default)s)")
    add("--order", help=f"of sections, one of: {', '.join(ORDERS)} (the preset's)")
    add(
        "--schedule",
        help="packing schedule, e.g. f1k1_x_g9_f1k1f2k2f16k4_td, or a family of them, one of: "
        f"{', '.join(FAMILIES)} (the order's)",
    )
    add("--size", help="WIDTHxHEIGHT; the preset's nearest shape is taken (the picture's)")
    _add_history(parser)
    add("--guidance-scale", type=float, help="distilled guidance (the preset's)")
    add("--cfg-scale", type=float, help="real guidance; 1 is off; default: the preset's")
    add("--negative-prompt", default="", help="has an effect with --cfg-scale only")
    add("--delivery", default="aligned", help="aligned or official (%(default)s)")
    add(
        "--quality",
        default="exact",
        help=f"{', '.join(QUALITY_NAMES)}: the others skip denoising work; lossy (%(default)s)",
    )
    add(
        "--teacache",
        type=float,
        nargs="?",
        const=TEACACHE_THRESHOLD,
        metavar="THRESHOLD",
        help=f"skip steps that change little; lossy ({TEACACHE_THRESHOLD} if no number is given)",
    )
    parser.set_defaults(command=_generate)


def _add_history(parser: argparse.ArgumentParser) -> None:
    """What happens to history, and when prompts change."""
    add = parser.add_argument
    add(
        "--prompt-at",
        type=_prompt_at,
        action="append",
        default=[],
        metavar="SECONDS:PROMPT",
        help="a prompt that takes over from there on; repeatable",
    )
    add("--ranking", default="time", help=f"of history: {', '.join(RANKINGS)} (%(default)s)")
    add("--codebook", type=Path, metavar="FILE", help="of schedules with +D (the weights' own)")
    add("--history-noise", type=float, default=0.0, help="strength, 0 to 1 (%(default)s)")
    add(
        "--history-noise-mode",
        default="scaled",
        help=f"with the steps or not: {', '.join(NOISE_MODES)} (%(default)s)",
    )
    add("--history-guidance", type=float, default=1.0, help="over 1 keeps closer (%(default)s)")
    add("--attention", default="full", help=f"{', '.join(ATTENTION_PATTERNS)} (%(default)s)")


def _prompt_at(text: str) -> PromptAt:
    seconds, colon, prompt = text.partition(":")
    try:
        return PromptAt(float(seconds if colon else ""), prompt)
    except ValueError:
        raise argparse.ArgumentTypeError(f"write SECONDS:PROMPT, not {text!r}") from None


def _add_codebook(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    fit = commands.add_parser("fit", help="k-means over the latent pixels of a folder")
    add = fit.add_argument
    add("data", type=Path, metavar="DATA", help="folder of videos, pictures or cached latents")
    add("-K", "--size", type=int, default=128, help="entries (%(default)s)")
    add("-o", "--output", type=Path, required=True, metavar="FILE.safetensors")
    add("--preset", default="tiny", help="whose codec encodes (%(default)s)")
    add("--weights", type=Path, metavar="FOLDER", help="local weights instead of the hub's")
    add("--device", help="cpu, cuda, cuda:1 ... (a GPU if there is one)")
    add("--seed", type=int, default=0, help="of all choices (%(default)s)")
    add("--passes", type=int, default=3, help="over the data (%(default)s)")
    fit.set_defaults(command=_fit_codebook)


def _add_loras(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:SCALE]",
        help="merge a LoRA into the transformer (diffusers, kohya or original names); repeatable",
    )


def _loras(options: argparse.Namespace) -> list[LoraFile]:
    from framepack.presets import LoraFile

    return [LoraFile.parse(text) for text in options.lora]


def _add_plan_memory(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--vram", required=True, metavar="6G", help="memory of the device")
    add("--preset", default="framepack-i2v", help="(%(default)s)")
    add("--size", help="WIDTHxHEIGHT; the nearest shape (the preset's largest)")
    add("--placement", help="look at this one instead of choosing")
    add("--reserve", default="0.6G", help="assumed for driver and libraries (%(default)s)")
    add("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(command=_plan_memory)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("cases", type=Path, metavar="CASES.json")
    add("--json", action="store_true", help="print the result as JSON")
    add("--tolerance", type=float, default=1e-4, help="largest error allowed (%(default)s)")
    parser.set_defaults(command=_verify)


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG.yaml", help="or the name of a recipe, such as tiny")
    add("-o", "--output", type=Path, metavar="FOLDER", help="state and weights")
    add("--plan", action="store_true", help="print what memory the transformer's run takes")
    add("--gpus", type=int, default=1, help="that share the planned run (%(default)s)")
    add("--stage", help="only one: codec, cache or transformer (all three)")
    add("--steps", type=int, help="stop after so many; the same command goes on (to the end)")
    add("--device", help="cpu, cuda ... (a GPU if there is one)")
    add("--threads", type=int, default=1, help="of PyTorch; one is best on a busy CPU")
    parser.set_defaults(command=_train)


def _add_lora(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="safetensors file of any dialect")
    add("--model", choices=("released", "tiny"), default="released", help="it is for (%(default)s)")
    add("-o", "--output", type=Path, metavar="OUT.safetensors", help="write it in another dialect")
    add("--dialect", default="diffusers", help="diffusers, kohya or original (%(default)s)")
    parser.set_defaults(command=_lora)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("subject", choices=("world",), help="held-out scenes of the procedural world")
    add("--json", action="store_true", help="print the figures as JSON")
    add("--weights", type=Path, metavar="FOLDER", help="instead of the shipped ones")
    _add_loras(parser)
    add("--colours", help="of things, comma-separated, such as purple (those trained on)")
    add("--shapes", help="likewise, such as cross")
    add("--specs", type=int, default=64, help="scenes (%(default)s)")
    add("--seeds", type=int, default=2, help="videos of each scene and order (%(default)s)")
    add("--sections", type=int, default=10, help="of each video (%(default)s)")
    add("--arms", default="truth,codec,inverted,forward,vanilla", help="(%(default)s)")
    add("--steps", type=int, help="denoising steps a section (the preset's)")
    parser.set_defaults(command=_evaluate)


def _generate(options: argparse.Namespace) -> int:
    from framepack.media.images import open_image

    image = None if options.image is None else open_image(options.image)
    plan = plan_generation(_request(options), image if image is None else image.shape[:2])
    if not options.output.parent.is_dir():
        raise InvalidRequest("output", f"there is no folder {options.output.parent}")

    from framepack.generation.generate import generate
    from framepack.generation.stepcache import TeaCacheSettings
    from framepack.generation.stitch import check_delivery
    from framepack.generation.together import follow
    from framepack.presets import load_preset
    from framepack.training.processes import join_processes

    check_delivery(options.delivery, plan)
    processes, device = join_processes(options.device)
    models = load_preset(
        plan.request.preset,
        options.weights,
        device if processes.count > 1 else options.device,
        _loras(options),
        options.codebook,
        options.placement,
    )
    models.processes = processes.count
    step_cache = None if options.teacache is None else TeaCacheSettings(options.teacache)
    if not processes.main:
        follow(models, plan, image, step_cache)
        return 0
    events = generate(models, plan, image, options.output, options.delivery, step_cache)
    finished = _with_progress_bar(events, plan)
    sys.stdout.write(
        f"{finished.path}: {finished.num_frames} frames, {len(plan.sections)} sections, "
        f"{finished.num_frames / plan.config.fps:.2f} s\n"
    )
    return 0


def _request(options: argparse.Namespace) -> GenerationRequest:
    return GenerationRequest(
        prompt=options.prompt,
        preset=options.preset,
        seconds=options.seconds,
        steps=options.steps,
        seed=options.seed,
        order=options.order,
        schedule=options.schedule,
        size=options.size,
        guidance_scale=options.guidance_scale,
        cfg_scale=options.cfg_scale,
        negative_prompt=options.negative_prompt,
        later_prompts=tuple(options.prompt_at),
        ranking=options.ranking,
        history_noise=options.history_noise,
        history_noise_mode=options.history_noise_mode,
        history_guidance=options.history_guidance,
        attention=options.attention,
        quality=options.quality,
    )


def _with_progress_bar(events: Generator[Progress, None, None], plan: Plan) -> Finished:
    """Run a generation to its end and show its denoising steps on standard error."""
    from tqdm import tqdm

    from framepack.generation.generate import Finished, Stepped

    total = len(plan.sections)
    with closing(events), tqdm(total=total * plan.steps, unit="step", desc="loading") as bar:
        for event in events:
            if isinstance(event, Stepped):
                bar.set_description(f"section {event.section + 1}/{total}")
                bar.update()
            if isinstance(event, Finished):
                return event
    raise AssertionError("a generation ends with Finished")


def _verify(options: argparse.Namespace) -> int:
    from framepack.verify import run_verify

    return run_verify(options.cases, as_json=options.json, tolerance=options.tolerance)


def _plan_memory(options: argparse.Namespace) -> int:
    from framepack.footprint import Planner, as_json, as_text, parse_bytes
    from framepack.models.placement import Placement

    budget = parse_bytes("vram", options.vram) - parse_bytes("reserve", options.reserve)
    planner = Planner(options.preset, options.size)
    if options.placement is None:
        every = planner.candidates(budget)
    else:
        every = [planner.footprint(Placement.parse(options.placement))]
    shown = as_json if options.json else as_text
    sys.stdout.write(shown(planner, every, budget))
    return 0 if any(each.peak <= budget for each in every) else 1


def _train(options: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from framepack.training.config import find_config, read_config
    from framepack.training.estimate import as_table, estimate
    from framepack.training.observers import ProgressBar
    from framepack.training.processes import join_processes
    from framepack.training.stages import Training

    for name in ("gpus", "threads", "steps"):
        if (given := getattr(options, name)) is not None and given < 1:
            raise InvalidRequest(name, f"must be at least 1, not {given}")
    config = read_config(find_config(options.config))
    if options.plan:
        sys.stdout.write(as_table(estimate(config, options.gpus)))
        return 0
    if options.output is None:
        raise InvalidRequest("output", "name the folder for state and weights: -o FOLDER")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest("output", f"cannot make {options.output}: {error}") from error
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    processes, device = join_processes(options.device)
    observers = [ProgressBar()] if processes.main else []
    training = Training(config, options.output, device, processes, observers)
    for stage, figures in training.run(options.stage, options.steps):
        if not processes.main:
            continue
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        tqdm.write(f"{stage}: {shown}", file=sys.stdout)
        sys.stdout.flush()
    return 0


def _fit_codebook(options: argparse.Namespace) -> int:
    from framepack.presets import load_preset
    from framepack.training.codebooks import CodebookFit, fit_from_folder

    for name in ("size", "passes"):
        if getattr(options, name) < 1:
            raise InvalidRequest(name, f"must be at least 1, not {getattr(options, name)}")
    models = load_preset(options.preset, options.weights, options.device)
    fit = CodebookFit(options.data, options.output, options.size, options.seed, options.passes)
    clips = fit_from_folder(fit, models)
    sys.stdout.write(f"{options.output}: {options.size} entries from {clips} clips\n")
    return 0


def _lora(options: argparse.Namespace) -> int:
    from framepack.models.hunyuan_video import HunyuanVideoConfig
    from framepack.models.lora import DIALECTS, layout_shapes, read_lora, write_lora
    from framepack.models.tiny import SIZES

    if options.dialect not in DIALECTS:
        raise InvalidRequest("dialect", f"choose one of: {', '.join(DIALECTS)}")
    layout = SIZES["tiny"].transformer if options.model == "tiny" else HunyuanVideoConfig()
    shapes = layout_shapes(layout)
    lora = read_lora(options.file, shapes)
    ranks = sorted({factors.rank for factors in lora.factors.values()})
    shown = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    sys.stdout.write(f"{options.file}: changes {len(lora.factors)} modules, {shown}\n")
    if options.output is not None:
        write_lora(lora, shapes, options.output, options.dialect)
        sys.stdout.write(f"{options.output}: {options.dialect}\n")
    return 0


def _cast(options: argparse.Namespace) -> Cast | None:
    from framepack.world.scene import Cast

    named = {"colours": options.colours, "shapes": options.shapes}
    given = {name: tuple(text.split(",")) for name, text in named.items() if text}
    return Cast(**given) if given else None


def _evaluate(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from framepack.evaluation.report import as_json, as_table
    from framepack.evaluation.world import WorldEvaluation, evaluate_world, summarise
    from framepack.presets import load_preset

    evaluation = WorldEvaluation(
        specs=options.specs,
        seeds=options.seeds,
        sections=options.sections,
        arms=tuple(options.arms.split(",")),
        steps=options.steps,
        cast=_cast(options),
    )
    models = load_preset("tiny", options.weights, "cpu", _loras(options))
    measured: dict[str, list[Measured]] = {arm: [] for arm in evaluation.arms}
    for arm, video in tqdm(
        evaluate_world(models, evaluation), total=evaluation.videos, unit="video"
    ):
        measured[arm].append(video)
    figures = summarise(measured)
    sys.stdout.write(as_json(evaluation, figures) if options.json else as_table(figures))
    return 0
