"""The two-stage trainer: trl's SFTTrainer, with stages, exact supervision and small, safe checkpoints."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import SFTConfig

from ..checkpoints.loading import load_model, load_processor
from ..checkpoints.stop_tokens import add_stop_tokens
from .adapters import base_or_adapter, llava_of, precision_kept, quantize_language_model_alone, ready_to_learn
from .agreement import check_agreement
from .batching import IGNORE_INDEX
from .collator import LlavaCollator
from .learning_rates import logged_rates, rated_parameters
from .optimization import check_optimization, parameter_groups
from .packing.attention import PACKED_ATTENTION, CannotPack
from .packing.balancing import balanced_sampler
from .packing.certifying import PACKS, ROWS_OF_PACK, certify_run, spread
from .packing.choosing import lays_end_to_end
from .packing.packs import PackedStream, Packs, encoded_views, packs_of
from .resuming import check_same_adapters, check_stage
from .samples import ROW_COLUMNS, SAMPLE_COLUMNS, Samples
from .sampling import ModalityLengthSampler
from .sft_config import RATES_OF_PARTS, LlavaSFTConfig
from .stage_record import stage_record
from .stages import log_parts
from .step.caching import settle_feature_cache
from .step.frozen_vision import heard_layers_alone
from .step.memory import settle_checkpointing
from .step.training_forward import install_training_forward
from .trainer_checkpoints import CheckpointingTrainer
from .training_rows import collator_of, prepare_rows

logger = logging.getLogger(__name__)

# What says where on the Hub a model is; its processor is in the same place
HUB_KWARGS = ("revision", "code_revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite. Training stops before the weights take the step."""


class LlavaSFTTrainer(CheckpointingTrainer):
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

    _signature_columns: Any  # looser than transformers declares it: never None here

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
        self.padding_free = lays_end_to_end(llava, args, kwargs, own_collator=data_collator is not None)
        if data_collator is None:
            data_collator = collator_of(processing_class, llava.config, args, self.padding_free)
        # Rows are prepared before the trainer is set up, which looks at the first of them
        self.data_collator, self.args = data_collator, args
        self._ready: list[Any] = []  # what `_prepared` has returned
        self.train_screening: Samples | None = None
        if train_dataset is not None:
            train_dataset, self.train_screening = self._prepared(train_dataset, "training")
            # Packs, and the sampler of batches of a length, draw an order of their own
            if args.shuffle_dataset and not (args.packing or args.group_by_modality_length):
                train_dataset = train_dataset.shuffle(seed=args.seed if args.data_seed is None else args.data_seed)
        if args.group_by_modality_length and self.train_screening is None:
            raise ValueError(
                "group_by_modality_length=True needs the rows' lengths before training: a data set that is not "
                "streaming, and no data_collator but a LlavaCollator."
            )
        eval_dataset = self._prepared_for_evaluation(eval_dataset)
        settle_checkpointing(args, learner, llava, _tokens_of_step(args, self.train_screening))
        self.dataset_name = dataset_name
        packing, padding_free = args.packing, args.padding_free
        with precision_kept(learner):
            args.packing = args.padding_free = False  # trl's own is for text alone
            super().__init__(
                model=learner,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                **kwargs,
            )
            args.packing, args.padding_free = packing, padding_free
        self.padding_free = self.data_collator.padding_free if isinstance(self.data_collator, LlavaCollator) else False
        install_training_forward(self._llava, alike=args.loss_type == "nll")
        if args.packing and train_dataset is not None:
            self.train_dataset = self._packed(train_dataset)
        self.args.model_init_kwargs = model_init_kwargs
        add_stop_tokens(self._llava, self.processing_class, args.chat_template)
        self._provenance = dict(self._llava.config.provenance or {})

    def _packed(self, rows: Any) -> Packs | PackedStream:
        """Prepared rows in packs, by the settings of the run."""
        processor: Any = self.processing_class
        budget = self.args.pack_tokens or self.args.max_length
        options: dict[str, Any] = {
            "share_images": self.args.share_images,
            "image_token_id": processor.image_token_id,
            "seed": self.args.seed if self.args.data_seed is None else self.args.data_seed,
        }
        if self.train_screening is not None:
            return packs_of(rows, self.train_screening, budget, views_of=encoded_views(processor), **options)
        if budget is None:
            raise ValueError(
                "--packing true of a stream needs --pack_tokens or --max_length: its longest row is not known."
            )
        return PackedStream(rows, budget, **options)

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
        rows = _rows_of(self.train_dataset)
        record = stage_record(
            self.args, self.dataset_name, len(rows) if isinstance(rows, Dataset) else None, self._adapters
        )
        self._llava.config.provenance = {**self._provenance, "training_history": [*earlier, record]}
        with self._made_ready():
            self._certify()
            self._keep_features(goes_on=bool(checkpoint))
            return super().train(resume_from_checkpoint, *args, **kwargs)

    @contextlib.contextmanager
    def _made_ready(self) -> Iterator[None]:
        """Meanwhile the language model attends within the rows of a pack, and a frozen tower runs as far as it is heard."""
        language_model = self._llava.model.language_model
        before, packs = language_model.config._attn_implementation, self.padding_free
        if packs:
            language_model.set_attn_implementation(PACKED_ATTENTION)
        try:
            with heard_layers_alone(self._llava):
                yield
        finally:
            if packs:
                language_model.set_attn_implementation(before)

    def _certify(self) -> None:
        """Show once for a model, a kernel and versions that rows laid end to end train it as they do alone.

        Raises:
            CannotPack: They do not, and `padding_free` or `packing` asked for it. Where nobody did, batches are padded.
        """
        rows = _rows_of(self.train_dataset)
        # Shown anything without gradient, bitsandbytes lays quantized weights out anew on a CPU, and they give none any more
        spoilt = getattr(self._llava, "is_quantized", False) and self.args.use_cpu
        if spoilt or not self.padding_free or not isinstance(rows, Dataset) or is_deepspeed_zero3_enabled():
            return
        some = rows.select(spread(len(rows), PACKS * ROWS_OF_PACK))
        collator: Any = self.data_collator
        try:
            with self.accelerator.autocast():
                certify_run(self._llava, self.processing_class, collator.samples(some), self._compute_dtype)
        except CannotPack as error:
            if self.args.packing or self.args.padding_free:
                raise
            logger.warning("batches are padded from here on: %s", error)
            self.padding_free = False
            self.data_collator = dataclasses.replace(collator, padding_free=False)

    @property
    def _compute_dtype(self) -> torch.dtype | None:
        return torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None

    def _keep_features(self, goes_on: bool) -> None:
        """Encode the images of the training once, where that is worth it."""
        dataset: Any = self.train_dataset
        rows = _rows_of(dataset)
        if not isinstance(self.data_collator, LlavaCollator):
            return
        known = isinstance(rows, Dataset)
        showings = self.args.num_train_epochs * len(rows) if known else 0.0
        if known and self.args.max_steps > 0:
            batches = self.args.max_steps * self.args.gradient_accumulation_steps * self.args.world_size
            showings = batches * self.args.train_batch_size * len(rows) / len(dataset)
        with self.accelerator.autocast():
            self.data_collator.feature_cache = settle_feature_cache(
                self.args.feature_cache,
                self._llava,
                self.processing_class,
                rows if known else None,
                showings,
                goes_on=goes_on,
                dtype=self._compute_dtype,
                share=(self.args.process_index, self.args.world_size),
            )
        self.accelerator.wait_for_everyone()

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
            return balanced_sampler(super()._get_train_sampler(train_dataset), self.train_dataset, self.args)
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
        with self._made_ready():
            return super().evaluate(self._prepared_for_evaluation(eval_dataset), *args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        with self._made_ready():
            return super().predict(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        with self._spare_rows(_rows_of(self.train_dataset)):
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
        counts = torch.stack([(inputs["labels"][:, 1:] != IGNORE_INDEX).sum(), _num_tokens(inputs)])
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


def _rows_of(dataset: Any) -> Any:
    """The rows of a data set, however they are laid into packs."""
    return dataset.rows if isinstance(dataset, Packs | PackedStream) else dataset


def _tokens_of_step(args: LlavaSFTConfig, samples: Samples | None) -> int:
    """Most tokens of a step on a device."""
    longest = args.max_length or 2048
    if samples is not None:
        longest = min(longest, max(samples.lengths))
    if args.packing:
        longest = args.pack_tokens or longest
    return args.train_batch_size * longest


def _num_tokens(batch: dict[str, Any]) -> torch.Tensor:
    """Tokens of all rows of a batch, each as if it stood alone."""
    if "pieces" in batch:
        return torch.tensor(batch["pieces"].tokens_of_rows, device=batch["labels"].device)
    return batch["attention_mask"].sum()


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
