"""Keys of LLaMA-Factory's YAML that have no counterpart, and what follows from that."""

NOT_TRAINING = (
    *("output_dir", "overwrite_output_dir", "overwrite_cache", "run_name", "plot_loss", "do_train", "do_eval"),
    *("do_predict", "save_steps", "save_strategy", "save_total_limit", "save_only_model", "save_safetensors"),
    *(
        "preprocessing_num_workers",
        "preprocessing_batch_size",
        "tokenized_path",
        "cache_dir",
        "media_dir",
        "dataset_dir",
    ),
    *("data_shared_file_system", "streaming", "buffer_size", "resume_from_checkpoint", "push_to_hub", "hf_hub_token"),
    *("ms_hub_token", "om_hub_token", "print_param_status", "low_cpu_mem_usage", "use_fast_tokenizer", "do_sample"),
    *("offload_folder", "device_map", "compute_accuracy", "eval_on_each_dataset", "predict_with_generate"),
    *("per_device_eval_batch_size", "eval_accumulation_steps", "temperature", "top_p", "top_k", "num_beams"),
    *("max_new_tokens", "repetition_penalty", "eval_num_beams", "master_addr", "master_port", "load_best_model_at_end"),
    *("metric_for_best_model", "greater_is_better", "disable_tqdm", "log_level", "prediction_loss_only"),
    *("include_num_input_tokens_seen", "include_tokens_per_second", "include_effective_tokens_per_second"),
    *(
        "remove_unused_columns",
        "local_rank",
        "use_kv_cache",
        "trust_remote_code_local",
        "adapter_folder",
        "ddp_timeout",
    ),
)
"""Keys that say nothing about what is trained."""
NOT_TRAINING_PREFIXES = (
    *("logging_", "hub_", "swanlab_", "use_swanlab", "wandb_", "ray_", "export_", "vllm_", "sglang_", "infer_"),
    *(
        "profiler_",
        "profile_",
        "enable_torch_profiler",
        "dataloader_",
        "ddp_",
        "push_to_hub_",
        "trackio_",
        "skip_memory",
        "megatron_bridge_",
    ),
)
SPEED = (
    *("deepspeed", "fsdp", "fsdp_config", "flash_attn", "use_unsloth", "use_unsloth_gc", "use_reentrant_gc"),
    *("upcast_layernorm", "upcast_lmhead_output", "use_v1_kernels", "torch_compile", "use_cpu", "no_cuda", "tf32"),
    *("auto_find_batch_size", "use_kt", "use_hyper_parallel", "use_megatron_bridge", "use_mca", "block_diag_attn"),
    *("quantization_device_map", "torch_empty_cache_steps", "average_tokens_across_devices", "gradient_checkpointing"),
    *("tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size", "sequence_parallel"),
    *("context_parallel_size", "use_distributed_optimizer", "overlap_param_gather", "overlap_grad_reduce"),
    *("bias_activation_fusion", "apply_rope_fusion", "moe_grouped_gemm", "moe_token_dispatcher_type"),
    *("recompute_granularity", "mixed_precision", "use_packed_sequences"),
)
"""Keys that change speed and memory, and not what is learned."""
SPEED_PREFIXES = ("fsdp_", "kt_", "fp8_", "hyper_parallel_")
MULTIMODAL_PREFIXES = (
    "image_",
    "video_",
    "audio_",
    "freeze_vision_",
    "freeze_multi_modal_",
    "crop_to_patches",
    "use_audio",
)
"""Keys for images, videos and audio, which no data set that is taken over has."""
LOST = {
    "train_on_prompt": "Theirs trains the prompt too; ours only answers.",
    "mask_history": "Theirs trains only the last answer of a row; ours trains all. Give the others `weight: 0`.",
    "additional_target": "Theirs trains these modules in full beside LoRA; ours trains only the LoRA matrices.",
    "loraplus_lr_ratio": "Theirs trains LoRA's B at a higher learning rate; ours trains A and B at the same rate.",
    "pissa_init": "Theirs starts LoRA from the principal components of the weights; ours from random A and zero B.",
    "resize_vocab": "Ours does not change the vocabulary.",
    "add_tokens": "Ours adds no tokens; these texts are split into the tokens that the model has.",
    "add_special_tokens": "Ours adds no tokens; these texts are split into the tokens that the model has.",
    "new_special_tokens_config": "Ours adds no tokens.",
    "split_special_tokens": "Ours sets rows with control tokens in a text aside, so that none is split.",
    "rope_scaling": "Theirs stretches the context; ours keeps the model's own context, and longer rows are refused.",
    "shift_attn": "Theirs trains with shifted sparse attention; ours with full attention.",
    "ref_model": "Theirs compares with this model; ours with the model that the training starts from.",
    "ref_model_adapters": "Theirs compares with this adapter; ours with the model that the training starts from.",
    "ref_model_quantization_bit": "Ours loads the reference as it loads the model that is trained.",
    "disable_shuffling": "Theirs keeps the order of the rows; ours shuffles them with the seed.",
    "mix_strategy": "Theirs interleaves its data sets; ours shuffles all rows. Weights by source are `data.weights`.",
    "interleave_probs": "Theirs draws rows by data set; ours uses each row once per epoch.",
    "tool_format": "Ours writes tools as the base model's chat template does.",
    "preserve_thinking": "Ours writes reasoning as the base model's chat template does.",
    "ld_alpha": "Theirs weights long answers less in DPO; ours does not.",
    "lr_scheduler_kwargs": "Ours has no further settings of the schedule.",
    "optim_args": "Ours has no further settings of the optimizer.",
    "label_smoothing_factor": "Theirs smooths the labels; ours does not.",
    "group_by_length": "Theirs batches rows of similar length; ours shuffles them.",
    "use_dft_loss": "Theirs weights tokens by their probability; ours trains on the plain loss.",
    "use_asft_loss": "Theirs adds a penalty to the loss; ours trains on the plain loss.",
    "use_eaft_loss": "Theirs weights tokens by entropy; ours trains on the plain loss.",
    "ignore_pad_token_for_loss": "Padding is never trained here.",
    "moe_aux_loss_coef": "Theirs adds a loss that balances experts; ours does not.",
    "create_new_adapter": "Ours continues with the adapter if its settings are equal, else from the merged model.",
    "fp8": "Theirs computes in 8 bit; ours in the type that the hardware has (`ft doctor` shows it).",
    "gradient_checkpointing_kwargs": "Ours has no further settings of gradient checkpointing.",
    "reward_model": "Ours trains with no reward model.",
}
"""Key → what follows from leaving it out."""
REFUSED = {
    "use_galore": "GaLore",
    "use_apollo": "APOLLO",
    "use_badam": "BAdam",
    "use_adam_mini": "Adam-mini",
    "use_muon": "Muon",
    "use_llama_pro": "block expansion",
    "mixture_of_depths": "mixture of depths",
    "train_from_scratch": "training from random weights",
}
"""Key → what it switches on. An experiment that has it is not taken over."""
ONLY_WITH = (
    "galore_",
    "apollo_",
    "badam_",
    "ppo_",
    "simpo_",
    "kto_",
    "oft_",
    "freeze_",
    "reward_model_",
    "pissa_",
    "asft_",
    "eaft_",
)
"""Prefixes of keys that matter only with a method that ours does not have."""
