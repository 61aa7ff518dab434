"""DeepSpeed's configuration, written here and in full: no value is left to a default of DeepSpeed's."""

import sys
from typing import Any

import deepspeed  # type: ignore[import-untyped]
import torch
from torch import nn

from conf.check import gradient_accumulation_steps
from conf.choices import Offload, Precision
from conf.schema import Settings
from parallel.deepspeed_internals import device_of, node_group
from parallel.mesh import ProcessMesh


def deepspeed_config(
    settings: Settings, global_batch_size: int, world_size: int, precision: Precision
) -> dict[str, Any]:
    """DeepSpeed's configuration for one stage of a run.

    global_batch_size: sequences per optimizer step; precision: resolved, not `auto`.
    Gradients accumulate in fp32 whatever the weights are. Without ZeRO, DeepSpeed can do so only for fp32 weights:
    `conf/check.py` refuses the others, and so does DeepSpeed.
    """
    layout, scale = settings.layout, settings.layout.loss_scale
    return {
        "train_batch_size": global_batch_size,
        "train_micro_batch_size_per_gpu": layout.micro_batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps(settings, global_batch_size, world_size),
        "managed_gradient_accumulation": True,
        "gradient_clipping": settings.optimizer.gradient_clipping,
        "gradient_allreduce_op": "mean",
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": layout.reduce_dtype.value,
        "seq_parallel_communication_data_type": "fp32",
        "disable_allgather": False,
        "data_types": {"grad_accum_dtype": "fp32", "param_dtype": None, "buffer_dtype": None},
        "torch_autocast": {"enabled": False},
        "bf16": {
            "enabled": precision in (Precision.bf16, Precision.fp8),
            "immediate_grad_update": True,  # add each gradient to the fp32 sum as it is computed, and free it
            "check_grad_overflow": True,  # skip the step where a gradient is not finite, as in every other precision
            "bf16_master_weights_and_grads": False,
            "bf16_optimizer_states": False,
        },
        "fp16": {
            "enabled": precision is Precision.fp16,
            "auto_cast": False,
            "loss_scale": 0.0,  # dynamic
            "initial_scale_power": scale.initial_power,
            "loss_scale_window": scale.window,
            "hysteresis": scale.hysteresis,
            "consecutive_hysteresis": False,
            "min_loss_scale": scale.minimum,
            "fp16_master_weights_and_grads": False,
        },
        "zero_optimization": _zero(settings),
        "zero_allow_untested_optimizer": False,
        "zero_force_ds_cpu_optimizer": False,
        "activation_checkpointing": {"partition_activations": False, "cpu_checkpointing": False},
        "pipeline": {
            "pipe_partitioned": False,
            "grad_partitioned": False,
            "activation_checkpoint_interval": 0,
            "seed_layers": False,
        },
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "dump_state": False,
        "disable_python_gc": False,
        "dataloader_drop_last": False,
        "checkpoint": {"tag_validation": "Fail", "load_universal": False, "use_node_local_storage": False},
        "seed": settings.run.seed,
    }


def _zero(settings: Settings) -> dict[str, Any]:
    layout, sizes = settings.layout, settings.layout.zero
    offload = {"device": "cpu", "pin_memory": True}  # copies run beside computation only from pinned memory
    return {
        "stage": layout.zero_stage,
        "contiguous_gradients": True,
        # Stages 1 and 2 all-reduce either way; with `reduce_scatter` they divide by the replicas before the cast to
        # fp32, in the weights' precision.
        "reduce_scatter": layout.zero_stage == 3,
        "use_multi_rank_bucket_allreduce": True,
        "overlap_comm": layout.zero_stage > 1 and layout.pipeline_parallel_size == 1,
        "compute_grad_norm": True,
        "allgather_partitions": True,
        "allgather_bucket_size": sizes.allgather_bucket_size + sizes.allgather_bucket_size % 2,  # it takes no odd size
        "reduce_bucket_size": sizes.reduce_bucket_size,
        "round_robin_gradients": False,
        "parameter_alignment": False,
        "ignore_unused_parameters": True,
        "load_from_fp32_weights": True,
        "elastic_checkpoint": False,
        "legacy_stage1": False,
        "zenflow": None,
        "sub_group_size": sizes.sub_group_size,
        "stage3_prefetch_bucket_size": sizes.prefetch_bucket_size,
        "stage3_param_persistence_threshold": sizes.param_persistence_threshold,
        "stage3_model_persistence_threshold": sys.maxsize,
        "stage3_max_live_parameters": sizes.max_live_parameters,
        "stage3_max_reuse_distance": sizes.max_reuse_distance,
        "stage3_gather_16bit_weights_on_model_save": False,
        "stage3_module_granularity_threshold": 0,
        "stage3_use_all_reduce_for_fetch_params": False,
        "stage3_allgather_sequential": False,
        "zero_hpz_partition_size": sizes.hpz_partition_size,
        "zero_quantized_weights": False,
        "zero_quantized_nontrainable_weights": False,
        "zero_quantized_gradients": False,
        "memory_efficient_linear": True,
        "pipeline_loading_checkpoint": False,
        "override_module_apply": True,
        "log_trace_cache_warnings": False,
        "enable_sanity_checks": False,
        "save_muon_momentum_buffer_in_memory": False,
        "offload_optimizer": None if layout.offload is Offload.none else offload,
        "offload_param": offload if layout.offload is Offload.parameters else None,
    }


def uses_bf16_optimizer(config: dict[str, Any]) -> bool:
    """Whether DeepSpeed chooses `BF16_Optimizer`. config: from `deepspeed_config`."""
    zero = config["zero_optimization"]
    return bool(config["bf16"]["enabled"] and zero["stage"] == 1 and zero["offload_optimizer"] is None)


def prepare_layer(layer: nn.Module, config: dict[str, Any], mesh: ProcessMesh) -> nn.Module:
    """Cast a layer, whose weights are set, to the run's precision and, for ZeRO-3, partition it over the replicas.

    Called layer by layer: a process never holds more than one whole layer beside its part of the model, so that a model
    larger than a device can start. config: from `deepspeed_config`.
    """
    if config["bf16"]["enabled"]:
        layer.to(torch.bfloat16)
    elif config["fp16"]["enabled"]:
        layer.to(torch.float16)
    if config["zero_optimization"]["stage"] == 3:
        replicas = mesh.grid.get_data_parallel_group()
        with device_of(mesh):
            within = node_group(config["zero_optimization"]["zero_hpz_partition_size"])
            deepspeed.zero.Init(
                layer,
                zero_param_parallel_group=within,
                data_parallel_group=replicas,
                config_dict_or_path=config,
                mpu=mesh.grid,
            )
    return layer
