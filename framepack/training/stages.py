"""The stages of a training, each resumable, in one working folder.

The first writes ``weights/``, a complete preset folder: random towers, the codec's start and an
untrained transformer, or a copy of an earlier training's. ``codec`` trains the codec's decoder (and
encoder, unless it is frozen) and replaces its weights when its run is complete. ``cache`` encodes
clips into ``cache/``. ``transformer`` trains on them and leaves its average in ``weights/`` after
every call, so the folder can be sampled from at any time.

A LoRA's training reads its base where it lies and leaves ``lora.safetensors`` instead.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from framepack.errors import InvalidRequest
from framepack.models.loading import (
    files_sha256,
    load_transformer,
    replace_tensors,
    save_transformer,
)
from framepack.models.lora import write_lora
from framepack.models.tiny import build_folder
from framepack.presets import CODEBOOK, FOLDERS, SETTINGS, SHIPPED_TINY, Models, load_preset
from framepack.training.codec import CodecRun, export_codec, measure_scaling, start_codec
from framepack.training.config import TrainingConfig
from framepack.training.corpora import Corpora, load_vae
from framepack.training.lora import LoraTraining, collect_lora
from framepack.training.observers import Observer
from framepack.training.previews import Previews
from framepack.training.processes import Processes
from framepack.training.runlog import Figures
from framepack.training.starts import complete, is_base, start_transformer
from framepack.training.towers import widen_text_towers
from framepack.training.transformer import Corpus, TransformerRun

STAGES = ("codec", "cache", "transformer")
"""In the order in which they need each other, unless the codec's encoder is frozen throughout."""

LORA = "lora.safetensors"
"""What a LoRA's training leaves."""

_CPU = torch.device("cpu")
_MADE = "weights.txt"
"""What ``weights/`` was made from."""

_CODEC_DONE = "codec/done"

_TOWERS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "image_encoder")


class Training:
    """A configuration and its working folder."""

    def __init__(
        self,
        config: TrainingConfig,
        folder: Path,
        device: torch.device = _CPU,
        processes: Processes | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        """Describe a training; nothing is read or written yet.

        Args:
            config: What to do.
            folder: Where everything goes.
            device: Of this process.
            processes: That train together; the codec is trained by the first one alone.
            observers: Told of every step of every run.

        Raises:
            InvalidRequest: A LoRA is to be trained, and there is nothing it could change; or
                previews are to be made by several processes.
        """
        self.config, self.folder = config, folder
        self.device, self.processes = device, processes or Processes()
        self.observers = observers
        if config.previews is not None and self.processes.count > 1:
            raise InvalidRequest("previews", "are made by a run of one process; leave them out")
        self.lora = config.transformer.lora
        self.weights = folder / "weights"
        start = _existing(config)
        if self.lora is not None and (config.codec is not None or _nothing(config)):
            raise InvalidRequest(
                "start",
                "a LoRA changes trained weights and nothing else: name a preset's folder, or tiny, "
                "and leave out codec",
            )
        self._base = self.weights if self.lora is None else start

    def run(
        self, only: str | None = None, steps: int | None = None
    ) -> Iterator[tuple[str, Figures]]:
        """Run all stages or one, yielding its name with what it reports.

        Args:
            only: Name of a stage.
            steps: Of each training stage in this call, at most; the rest is for later calls.

        Raises:
            InvalidRequest: There is no such stage, or it needs another one first.
        """
        if only is not None and only not in STAGES:
            raise InvalidRequest("stage", f"there is no {only!r}; choose from {', '.join(STAGES)}")
        for stage in STAGES if only is None else (only,):
            if stage == "codec":
                reports = self.train_codec(steps)
            elif stage == "cache":
                reports = iter([{"encoded": self.fill_cache()}])
            else:
                reports = self.train_transformer(steps)
            for figures in reports:
                yield stage, figures

    def prepare(self) -> None:
        """Write ``weights/`` unless it is there, or not needed."""
        if self._base == self.weights:
            made, wanted = self.folder / _MADE, _origin(self.config)
            if self.weights.is_dir():
                if made.is_file() and made.read_text(encoding="utf-8") != wanted:
                    raise InvalidRequest(
                        "start",
                        f"{self.weights} was made with other settings of preset, start, size or "
                        "seed; give another folder, or delete it",
                    )
            elif self.processes.main:
                self.folder.mkdir(parents=True, exist_ok=True)
                made.write_text(wanted, encoding="utf-8")
                self._prepare()
        self.processes.wait()

    def _prepare(self) -> None:
        partial = self.folder / "weights.partial"
        if partial.is_dir():  # an earlier call was killed
            shutil.rmtree(partial)
        start = _existing(self.config)
        if start is not None and (start / "transformer").is_dir():
            shutil.copytree(start, partial)
        elif _nothing(self.config):
            self._build(partial)
        else:
            models = load_preset(self.config.preset, start)
            for name in dict.fromkeys(name for part in FOLDERS.values() for name in part):
                shutil.copytree(models.folder(name), partial / name)
        if is_base(partial / "transformer"):
            complete(partial / "transformer")
        partial.rename(self.weights)

    def _build(self, partial: Path) -> None:
        build_folder(partial, self.config.size, self.config.seed)
        widen_text_towers(partial, self.config.seed)
        if self.config.codec is not None:
            vae = load_vae(partial / "vae")
            export_codec(vae, start_codec(vae, self.config.codec), partial / "vae")
        model = load_transformer(partial / "transformer")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            start_transformer(model)
        save_transformer(model, partial / "transformer")

    def train_codec(self, steps: int | None = None) -> Iterator[Figures]:
        """Train the codec and export it when its run is complete."""
        self.prepare()
        if self.config.codec is None or not self.processes.main:
            return
        vae = load_vae(self.weights / "vae")
        run = CodecRun(vae, self.config.codec, self.folder / "codec")
        run.observers.extend(self.observers)
        yield from run.advance(steps)
        if run.finished:
            self._finish_codec(run)

    def _finish_codec(self, run: CodecRun) -> None:
        """Export the average, with the scaling of its own latents if the encoder moved."""
        codec, vae = run.settings, run.model
        factor = vae.config.scaling_factor
        if codec.frozen < 1:
            first = codec.run.seed
            with run.averaged():
                factor = measure_scaling(vae, range(first, first + codec.start_clips), codec.pixels)
        with run.averaged():
            export_codec(vae, factor, self.weights / "vae")
        (self.folder / _CODEC_DONE).touch()

    def fill_cache(self) -> int:
        """Encode clips that are not encoded yet, this process's share; returns how many that were.

        Raises:
            InvalidRequest: The codec's encoder will still change.
        """
        self.prepare()
        codec = self.config.codec
        moves = codec is not None and codec.frozen < 1
        if moves and not (self.folder / _CODEC_DONE).is_file():
            raise InvalidRequest(
                "stage", "finish the stage 'codec' first, its encoder is not final"
            )
        return self.corpora().fill()

    def train_transformer(self, steps: int | None = None) -> Iterator[Figures]:
        """Train the transformer, and export its average at the end of this call."""
        self.prepare()
        settings = self.config.transformer
        halved = settings.memory.frozen != "float32"
        dtype = torch.bfloat16 if halved else torch.float32
        model = load_transformer(self.models.folder("transformer"), "cpu", dtype)
        corpora, taught = self.corpora(), self._teacher_folder()
        run = TransformerRun(
            model,
            settings,
            self._keyed(corpora.load()),
            self.folder / "transformer",
            processes=self.processes,
            device=self.device,
            teacher=None if taught is None else load_transformer(taught, "cpu", dtype),
        )
        run.observers.extend(self.observers)
        if self.config.previews is not None:
            clips = corpora.preview_clips()
            run.observers.append(Previews(self.config.previews, self.models, clips))
        yield from run.advance(steps)
        self.export(run)

    def _teacher_folder(self) -> Path | None:
        """What the training started from, where it lies, since ``weights/`` moves on."""
        if self.config.transformer.distillation is None or _nothing(self.config):
            return None
        return load_preset(self.config.preset, _existing(self.config)).folder("transformer")

    def _keyed(self, corpus: Corpus) -> Corpus:
        """A corpus that belongs to a LoRA's base and to a teacher, too: others are another run."""
        keys = [corpus.key] if self.lora is None else [corpus.key, self._base_key]
        teacher = self._teacher_folder()
        keys += [] if teacher is None else [files_sha256(teacher, self.folder / "hashes")]
        return replace(corpus, key=" ".join(keys))

    @property
    def _base_key(self) -> str:
        return files_sha256(self.models.folder("transformer"), self.folder / "hashes")

    def export(self, run: TransformerRun) -> None:
        """Leave a run's averaged weights: in ``weights/``, in bf16, or as a LoRA's files.

        A codebook that history was discretised with goes where generation looks for it: beside the
        weights, or the LoRA.

        What was not trained stays as it was stored, since the next slice of the run reads it again.
        """
        averages = run.averaged_weights()
        if not self.processes.main:
            return
        for codebook in list(run.corpus.codebooks.values())[:1]:
            codebook.save((self.weights if self.lora is None else self.folder) / CODEBOOK)
        if self.lora is not None:
            self._export_lora(self.lora, averages, run)
            return
        replace_tensors(
            self.weights / "transformer",
            {name: tensor.to(torch.bfloat16) for name, tensor in averages.items()},
            {"format": "pt", "steps": str(run.step)},
        )

    def _export_lora(
        self, settings: LoraTraining, weights: Mapping[str, Tensor], run: TransformerRun
    ) -> None:
        stated = {"steps": str(run.step), "base_sha256": self._base_key}
        lora = collect_lora(weights, settings, stated)
        for number, dialect in enumerate(settings.dialects):
            name = f"lora.{dialect}.safetensors" if number else LORA
            write_lora(lora, run.base_shapes, self.folder / name, dialect)

    def corpora(self) -> Corpora:
        """The clips of the configuration and where they are encoded."""
        return Corpora(self.config, self.models, self.folder, self.processes)

    @property
    def models(self) -> Models:
        """The base as it stands, nothing loaded."""
        return load_preset(self.config.preset, self._base, self.device)


def _nothing(config: TrainingConfig) -> bool:
    """Whether a training starts from nothing: no folder given, none to be had from the hub."""
    return config.start is None and config.preset == "tiny"


def _origin(config: TrainingConfig) -> str:
    """All that decides what ``weights/`` holds at first."""
    if _nothing(config):
        return f"{config.preset}, size {config.size}, seed {config.seed}\n"
    return f"{config.preset} from {_existing(config) or 'the hub'}\n"


def _existing(config: TrainingConfig) -> Path | None:
    """The folder that a training starts from, by path or by name; None for the hub's weights."""
    if config.start is None:
        return None
    folder = SHIPPED_TINY if config.start == "tiny" else Path(config.start)
    wanted = SETTINGS if config.preset == "tiny" else "."
    if not (folder / wanted).exists():
        raise InvalidRequest("start", f"{folder} is not a preset's folder: it has no {wanted}")
    return folder
