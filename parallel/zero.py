"""The one place where DeepSpeed's configuration is written, in full: no value is dropped for equalling a default."""

from typing import Any

from conf.check import data_parallel_size, gradient_accumulation_steps
from conf.choices import Offload, Precision
from conf.schema import Settings


def deepspeed_config(
    settings: Settings, global_batch_size: int, world_size: int, precision: Precision
) -> dict[str, Any]:
    """DeepSpeed's configuration for one stage of a run.

    global_batch_size: sequences per optimizer step; precision: resolved, not `auto`.
    Gradients accumulate in fp32 whatever the weights are. Without ZeRO, DeepSpeed can do so only for fp32 weights:
    `conf/check.py` refuses the others, and so does DeepSpeed.
    """
    layout = settings.layout
    return {
        "train_batch_size": global_batch_size,
        "train_micro_batch_size_per_gpu": layout.micro_batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps(settings, global_batch_size, world_size),
        "gradient_clipping": settings.optimizer.gradient_clipping,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "bf16": {"enabled": precision is Precision.bf16},
        "fp16": {
            "enabled": precision is Precision.fp16,
            "auto_cast": False,
            "loss_scale": 0.0,
            "initial_scale_power": 16,
            "loss_scale_window": 1000,
            "hysteresis": 2,
            "consecutive_hysteresis": False,
            "min_loss_scale": 1,
        },
        "zero_optimization": _zero(settings, data_parallel_size(settings, world_size)),
        "zero_allow_untested_optimizer": False,
        "zero_force_ds_cpu_optimizer": False,
        "activation_checkpointing": {"partition_activations": False, "cpu_checkpointing": False},
        "pipeline": {"pipe_partitioned": False, "grad_partitioned": False, "activation_checkpoint_interval": 0},
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "dump_state": False,
        "checkpoint": {"tag_validation": "Fail", "load_universal": False, "use_node_local_storage": False},
        "seed": settings.run.seed,
    }


def _zero(settings: Settings, replicas: int) -> dict[str, Any]:
    layout = settings.layout
    config: dict[str, Any] = {
        "stage": layout.zero_stage,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "overlap_comm": layout.zero_stage > 1 and layout.pipeline_parallel_size == 1,
        "allgather_partitions": True,
        "allgather_bucket_size": 200_000_000,
        "reduce_bucket_size": 200_000_000,
        "round_robin_gradients": False,
        "elastic_checkpoint": False,
    }
    if layout.zero_stage == 3:
        config |= {
            "sub_group_size": 1_000_000_000,
            "stage3_prefetch_bucket_size": 50_000_000,
            "stage3_param_persistence_threshold": 100_000,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": False,
        }
    if layout.offload is not Offload.none:
        config["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    if layout.offload is Offload.parameters:
        config["offload_param"] = {"device": "cpu", "pin_memory": False}
    return config
