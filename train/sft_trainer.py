"""The two-stage trainer: trl's SFTTrainer, with stages, exact supervision and small, safe checkpoints."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from peft import PeftModel
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from trl import SFTConfig, SFTTrainer

from ..checkpoints.adapter_files import complete_adapter
from ..checkpoints.connector_files import CONNECTOR_FILE, load_connector, save_connector
from ..checkpoints.loading import load_model, load_processor, naming_damage
from ..checkpoints.model_card import CARD_FILE, write_model_card
from ..checkpoints.safe_writing import replace_files, replace_folder, staging_folder
from ..checkpoints.stop_tokens import add_stop_tokens
from .adapters import base_or_adapter, llava_of, precision_kept, quantize_language_model_alone, ready_to_learn
from .agreement import check_agreement
from .batching import IGNORE_INDEX
from .collator import LlavaCollator
from .learning_rates import logged_rates, rated_parameters
from .optimization import check_optimization, parameter_groups
from .resuming import check_same_adapters, check_stage
from .samples import ROW_COLUMNS, SAMPLE_COLUMNS, Samples
from .sampling import ModalityLengthSampler
from .sft_config import RATES_OF_PARTS, LlavaSFTConfig
from .stage_record import stage_record
from .stages import log_parts
from .training_rows import collator_of, prepare_rows

logger = logging.getLogger(__name__)

# What says where on the Hub a model is; its processor is in the same place
HUB_KWARGS = ("revision", "code_revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite. Training stops before the weights take the step."""


class LlavaSFTTrainer(SFTTrainer):
    """Train a LLaVA by the paper's two stages (arXiv:2304.08485, section 4.2).

    Takes what trl's `SFTTrainer` takes. It differs in this:

    - `args.stage` decides which modules learn, and a table of it is logged.
    - Rows of both formats are read and checked before the first step; labels are on the assistant's turns alone
      (`LlavaCollator`).
    - Checkpoints of stage "align" hold the connector and what resuming needs, not the frozen towers; `save_model`
      writes the whole model. Every checkpoint is written beside its place and renamed into it.
    - `peft_config` puts adapters on the language model alone, whatever else has modules of those names; the connector
      learns whole and is in every checkpoint beside them.
    - `supervised_token_rate` is logged next to the loss, and the learning rate of each part where they differ.

    Args:
        model: A `LlavaForConditionalGeneration`, or the path or Hub id of one.
        args: A `LlavaSFTConfig`; an `SFTConfig` is taken with the additions at their defaults.
        data_collator: Default: a `LlavaCollator` of the processor.
        train_dataset: Rows of either format, as `load_conversations` returns them or as they were read.
        eval_dataset: Likewise, or a dict of such.
        processing_class: The `LlavaProcessor`. Default: the one saved with the model.
        dataset_name: What the model card calls the data.
        **kwargs: Passed to `SFTTrainer`.

    Raises:
        BadRow: A row that cannot be trained on, before the first step (see `args.on_bad_row`).
        NonFiniteLoss: During `train()`: the loss is NaN or infinite.
        SaveFailed: During `train()`: a checkpoint could not be written; earlier ones are intact.
    """

    args: LlavaSFTConfig
    # Looser than transformers declares them: neither is ever None here
    model: Any
    _signature_columns: Any

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: SFTConfig | None = None,
        data_collator: Any = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        dataset_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        args = LlavaSFTConfig.of(args)
        model_init_kwargs = args.model_init_kwargs
        hub_kwargs: dict[str, Any] = {}
        learner: Any = model
        if isinstance(model, str):
            hub_kwargs = {key: value for key, value in dict(model_init_kwargs or {}).items() if key in HUB_KWARGS}  # type: ignore[arg-type]
            learner = _load_model(model, args)
        learner = ready_to_learn(learner, kwargs.pop("peft_config", None), args)
        check_optimization(learner, args, kwargs)
        llava = llava_of(learner)
        if isinstance(model, str):
            args.model_init_kwargs = None  # used by now; trl would say that they are ignored
        if processing_class is None:
            place = model if isinstance(model, str) else llava.config.name_or_path
            processing_class = load_processor(place, trust_remote_code=args.trust_remote_code, **hub_kwargs)
        check_agreement(llava.config, processing_class)
        if data_collator is None:
            data_collator = collator_of(processing_class, llava.config, args)
        # Rows are prepared before the trainer is set up, which looks at the first of them
        self.data_collator, self.args = data_collator, args
        self._ready: list[Any] = []  # what `_prepared` has returned
        self.train_screening: Samples | None = None
        if train_dataset is not None:
            train_dataset, self.train_screening = self._prepared(train_dataset, "training")
            if args.shuffle_dataset and not args.group_by_modality_length:  # whose sampler draws an order of its own
                train_dataset = train_dataset.shuffle(seed=args.seed if args.data_seed is None else args.data_seed)
        if args.group_by_modality_length and self.train_screening is None:
            raise ValueError(
                "group_by_modality_length=True needs the rows' lengths before training: a data set that is not "
                "streaming, and no data_collator but a LlavaCollator."
            )
        eval_dataset = self._prepared_for_evaluation(eval_dataset)
        self.dataset_name = dataset_name
        self._staging: Path | None = None
        with precision_kept(learner):
            super().__init__(
                model=learner,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                **kwargs,
            )
        self.args.model_init_kwargs = model_init_kwargs
        add_stop_tokens(self._llava, self.processing_class, args.chat_template)
        self._provenance = dict(self._llava.config.provenance or {})

    @property
    def _llava(self) -> Any:
        """The LLaVA itself, inside whatever wraps it."""
        return llava_of(self.accelerator.unwrap_model(self.model))

    @property
    def _adapters(self) -> dict[str, Any] | None:
        """What the config of the adapters says; None of a run without any."""
        model = self.accelerator.unwrap_model(self.model)
        return model.peft_config[model.active_adapter].to_dict() if isinstance(model, PeftModel) else None

    @property
    def has_adapters(self) -> bool:
        """Whether what is trained and saved is an adapter."""
        return self._adapters is not None

    @property
    def _output_dir(self) -> Path:
        return Path(self.args.output_dir or "trainer_output")

    # ---- training ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or go on from a checkpoint of the same stage.

        Raises:
            ResumeRefused: The checkpoint is of another stage or of other adapters; its optimizer holds other weights.
        """
        checkpoint = self._last_checkpoint() if resume_from_checkpoint is True else resume_from_checkpoint
        if checkpoint:
            check_stage(checkpoint, self.args.stage)
            check_same_adapters(checkpoint, self._adapters)
        earlier = self._provenance.get("training_history") or []
        rows = len(self.train_dataset) if isinstance(self.train_dataset, Dataset) else None
        record = stage_record(self.args, self.dataset_name, rows, self._adapters)
        self._llava.config.provenance = {**self._provenance, "training_history": [*earlier, record]}
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        if self.optimizer is None and any(getattr(self.args, name) is not None for name in RATES_OF_PARTS):
            groups = parameter_groups(self.model, self.args, set(self.get_decay_parameter_names(self.model)))
            optimizer_class, optimizer_kwargs = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(groups, **optimizer_kwargs)
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.is_world_process_zero():
            log_parts(self.model, self.args.stage, rated_parameters(self.model, self.args))
        return optimizer

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if not self.args.group_by_modality_length:
            return super()._get_train_sampler(train_dataset)
        assert self.train_screening is not None
        rows = self.train_screening.usable
        step_rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return ModalityLengthSampler(
            lengths=[self.train_screening.lengths[row] for row in rows],
            has_image=[self.train_screening.num_images[row] > 0 for row in rows],
            batch_size=step_rows,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if isinstance(self.data_collator, LlavaCollator):
            # What a sample is made of. Its text has become ids, and need not be read again
            self._signature_columns = [*SAMPLE_COLUMNS, "id", "images", "image"]
        else:
            self._signature_columns = [*dict.fromkeys([*self._signature_columns, *ROW_COLUMNS])]

    # ---- rows ----

    def _prepared(self, rows: Any, name: str) -> tuple[Any, Samples | None]:
        if not isinstance(self.data_collator, LlavaCollator):
            return rows, None  # it reads rows in a way of its own
        if any(rows is ready for ready in self._ready):
            return rows, None
        rows, samples = prepare_rows(rows, self.data_collator, self.args, name)
        self._ready.append(rows)
        return rows, samples

    def _prepared_for_evaluation(self, rows: Any) -> Any:
        if rows is None or isinstance(rows, str):  # a name chooses among those that are prepared
            return rows
        if isinstance(rows, dict):
            return {key: self._prepared(each, key)[0] for key, each in rows.items()}
        return self._prepared(rows, "evaluation")[0]

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        return super().evaluate(self._prepared_for_evaluation(eval_dataset), *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        with self._spare_rows(self.train_dataset):
            return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        named: Any = self.eval_dataset
        rows = named[eval_dataset] if isinstance(eval_dataset, str) else eval_dataset
        with self._spare_rows(named if rows is None else rows):
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        rows = self._prepared(test_dataset, "test")[0]
        with self._spare_rows(rows):
            return super().get_test_dataloader(rows)

    @contextlib.contextmanager
    def _spare_rows(self, rows: Any) -> Iterator[None]:
        """Collate, in the loaders made meanwhile, with rows to stand in for batches of bad rows alone."""
        collator = self.data_collator
        if isinstance(collator, LlavaCollator):
            self.data_collator = dataclasses.replace(collator, spare_rows=rows)
        try:
            yield
        finally:
            self.data_collator = collator

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        mode = "train" if self.model.training else "eval"
        counts = torch.stack([(inputs["labels"][:, 1:] != IGNORE_INDEX).sum(), inputs["attention_mask"].sum()])
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        if mode == "train" and not torch.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; stopped before it reached the weights. "
                f"Last good checkpoint: {self._last_checkpoint() or 'none yet'}. Usual causes: fp16 where bf16 is needed, "
                f"learning_rate={self.args.learning_rate:g} too high, or damaged weights."
            )
        self._metrics[mode]["token_counts"].append(self.accelerator.gather(counts[None]).sum(0))
        return result

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        if counts := metrics.pop("token_counts", None):  # of all parts of the step, and all processes
            supervised, tokens = sum(counts).tolist()
            metrics["supervised_token_rate"] = [supervised / tokens]
        if "learning_rate" in logs and self.optimizer is not None and self.lr_scheduler is not None:
            logs |= logged_rates(self.optimizer, self.lr_scheduler.get_last_lr())
        super().log(logs, start_time)

    # ---- checkpoints ----

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        best_before = self.state.best_model_checkpoint
        with staging_folder(run_dir / name, owner=self.args.should_save) as staging:
            self.accelerator.wait_for_everyone()
            self._staging = staging
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                if (
                    self.state.best_model_checkpoint != best_before
                    or self.state.best_global_step == self.state.global_step
                ):
                    self.state.best_model_checkpoint = str(run_dir / name)
                    self.state.save_to_json(str(staging / name / TRAINER_STATE_NAME))
                replace_folder(staging / name, run_dir / name)
            self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run_dir / name))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging is None:  # while it is being written it has no place yet; pushed once it has
            super()._push_from_checkpoint(checkpoint_folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the whole model and its processor, beside first and then renamed file by file.

        Raises:
            SaveFailed: Nothing in `output_dir` has changed.
        """
        if self._staging is not None:
            super().save_model(output_dir, _internal_call=True)
            return
        final = Path(output_dir or self._output_dir)
        final.mkdir(parents=True, exist_ok=True)
        with staging_folder(final / "model", owner=self.args.should_save) as staging:
            self.accelerator.wait_for_everyone()
            super().save_model(str(staging), _internal_call=True)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                (staging / CARD_FILE).unlink(missing_ok=True)  # the folder may have one of somebody's own
                replace_files(staging, final)
            self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_model_card(final, self._llava.config, self._adapters)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        if self._adapters is not None:
            super()._save(output_dir, state_dict)
            if self.args.should_save:
                complete_adapter(Path(str(output_dir)), self._llava)
        elif self._staging is None or self.args.stage != "align":
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            assert output_dir is not None
            save_connector(self._llava, output_dir, state_dict=state_dict)
            torch.save(self.args, os.path.join(output_dir, "training_args.bin"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with naming_damage(resume_from_checkpoint):
            if os.path.exists(os.path.join(resume_from_checkpoint, CONNECTOR_FILE)):
                load_connector(self._llava, resume_from_checkpoint)
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is not None and os.path.exists(os.path.join(best, CONNECTOR_FILE)):
            load_connector(self._llava, best)
        else:
            super()._load_best_model()

    def _last_checkpoint(self) -> str | None:
        folders = self._output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        numbered = [(int(folder.name.rsplit("-", 1)[1]), str(folder)) for folder in folders]
        return max(numbered)[1] if numbered else None

    # ---- model card ----

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        if self.is_world_process_zero():
            self._output_dir.mkdir(parents=True, exist_ok=True)
            write_model_card(self._output_dir, self._llava.config, self._adapters)


def _load_model(path: str, args: LlavaSFTConfig) -> Any:
    kwargs: dict[str, Any] = {"dtype": torch.float32, **dict(args.model_init_kwargs or {})}  # type: ignore[arg-type]
    if isinstance(kwargs["dtype"], str) and kwargs["dtype"] != "auto":
        kwargs["dtype"] = getattr(torch, kwargs["dtype"])
    kwargs.setdefault("trust_remote_code", args.trust_remote_code)
    quantize_language_model_alone(kwargs)
    try:
        adapted = base_or_adapter(path, args, kwargs)
        return load_model(path, **kwargs) if adapted is None else adapted
    except OSError as error:
        raise OSError(f"model {path!r} cannot be loaded: {error}") from error
