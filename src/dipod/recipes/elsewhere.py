"""What settings are called elsewhere: names of TRL, transformers and the published trainers, and ours for them."""

from __future__ import annotations

from collections.abc import Mapping

ELSEWHERE: Mapping[str, str] = {
    "num_generations": "trainer.group_size",
    "num_train_epochs": "trainer.epochs",
    "max_steps": "trainer.steps",
    "num_iterations": "trainer.inner_updates",
    "per_device_train_batch_size": "trainer.prompts",
    "generation_batch_size": "sampler.max_rows",
    "gradient_accumulation_steps": "trainer.rows_per_pass",
    "scale_rewards": "trainer.scale_advantages",
    "eval_steps": "trainer.evaluate_every",
    "save_steps": "trainer.save_every",
    "epsilon": "objective.clip",
    "loss_type": "objective.normaliser",
    "adam_beta1": "optimiser.beta1",
    "adam_beta2": "optimiser.beta2",
    "warmup_steps": "optimiser.warmup",
    "max_prompt_length": "task.max_prompt",
    "max_completion_length": "task.completion_length",
    "max_new_tokens": "task.completion_length",
    "dataset_name": "task.train_source",
    "dataset": "task.train_source",
    "train_dataset": "task.train_source",
    "eval_dataset": "task.test_source",
    "reward_funcs": "task.rewards",
    "system_prompt": "task.system",
    "num_shots": "task.shots",
    "diffusion_steps": "sampler.steps",
    "p_mask_prompt": "corruption.prompt_share",
    "num_mc": "corruption.samples",
    "model_name_or_path": "model.path",
    "model_revision": "model.revision",
    "torch_dtype": "model.dtype",
    "bf16": "model.mixed_precision",
    "lora_r": "model.lora_rank",
    "lora_target_modules": "model.lora_targets",
    "dipod_beta": "beta",
    "report_to": "logging.tracker",
    "output_dir": "--out",
    "resume_from_checkpoint": "--resume",
}
"""By the other name: the path of our setting, or a flag of the command."""
