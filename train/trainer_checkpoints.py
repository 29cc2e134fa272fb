"""What the trainer saves and finds again: small, whole checkpoints, each written beside its place and renamed into it."""

import os
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from trl import SFTTrainer

from ..checkpoints.adapter_files import complete_adapter
from ..checkpoints.connector_files import CONNECTOR_FILE, load_connector, save_connector
from ..checkpoints.loading import naming_damage
from ..checkpoints.model_card import CARD_FILE, write_model_card
from ..checkpoints.safe_writing import replace_files, replace_folder, staging_folder
from .adapters import llava_of
from .sft_config import LlavaSFTConfig


class CheckpointingTrainer(SFTTrainer):
    """The part of `LlavaSFTTrainer` that writes and reads checkpoints.

    Those of stage "align" hold the connector and what resuming needs, not the frozen towers; `save_model` writes the whole
    model.
    """

    args: LlavaSFTConfig
    model: Any  # never None here
    _staging: Path | None = None  # where a checkpoint is being written

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
