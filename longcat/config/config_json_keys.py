"""Keys of `config.json` beside those that a LongCat model is made of: what each may say, and which mean nothing here."""

from __future__ import annotations

from typing import Any

SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "zero_expert_type": ("identity",),
    "router_bias": (False,),
    "n_shared_experts": (0,),
    "n_group": (1, 0),
    "topk_group": (1, 0),
    "topk_method": ("greedy", "noaux_tc"),
    "norm_topk_prob": (False,),
    "scoring_func": ("softmax",),
    "moe_router_activation_func": ("softmax",),
    "moe_group_size": (1, 0),
    "grouped_moe_norm_scale": (1,),
    "first_k_dense_replace": (0,),
    "moe_layer_freq": (1,),
    "mlp_bias": (False,),
    "use_mla": (True,),
    "attention_method": ("MLA", "mla", "LSA", "lsa"),
    "mla_use_output_gate": (False,),
    "linear_method": ("",),
    "fa_interval": (1,),
    "kda_nope": (False,),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1.0,),
    "rope_interleave": (True,),
    "ngram_exclude_sp_token": (False,),
    "ngram_fix_normalize_factor": (False,),
    "special_token_scope": ("",),
    "ignored_token_ids": ([],),
    "embP": (1,),
    "cli_factor": (2,),
    "index_topk_pattern": ([],),
    "index_k_norm_type": ("rms",),
    "indexer_rope_interleave": (True,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
}
"""Keys that change the model, with the values for which it is the one built here; null is as good as left out."""

HARMLESS = {
    # what the file is, and what wrote it
    "architectures", "model_type", "auto_map", "transformers_version", "torch_dtype", "dtype", "name_or_path",
    "tokenizer_class", "params_dtype", "router_dtype", "rounter_params_dtype", "router_params_dtype",
    "unsloth_version", "unsloth_fixed", "torch_compile", "model_name", "license",
    # of transformers' PretrainedConfig, for other uses than the forward pass
    "return_dict", "use_return_dict", "output_hidden_states", "output_attentions", "output_router_logits",
    "torchscript", "use_bfloat16", "tf_legacy_loss", "pruned_heads", "chunk_size_feed_forward", "is_decoder",
    "cross_attention_hidden_size", "tie_encoder_decoder", "finetuning_task", "id2label", "label2id", "num_labels",
    "problem_type", "prefix", "task_specific_params", "use_cache", "attn_implementation", "experts_implementation",
    "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "pad_token_id", "sep_token_id",
    "unk_token_id", "decoder_start_token_id", "initializer_std", "init_method_std",
    # of its generation configuration
    "assistant_confidence_threshold", "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens",
    "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty",
    "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "max_length", "max_new_tokens", "min_length",
    "min_new_tokens", "min_p", "no_repeat_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "remove_invalid_values",
    "repetition_penalty", "return_dict_in_generate", "suppress_tokens", "target_lookbehind", "temperature", "top_k",
    "top_p", "typical_p",
    # how others train or run the same model
    "pretraining_tp", "ep_size", "aux_loss_alpha", "router_aux_loss_coef", "seq_aux", "router_z_loss_coef",
    "router_jitter_noise", "moe_impl", "moe_switch_token_num", "dsa_mtp_cli", "nextn_use_scmoe", "seq_length",
    "max_seq_len", "max_sequence_length", "model_max_length", "max_window_layers", "scale_fmt", "use_flash_attn",
    "use_flash_attention", "tensor_parallel_size",
    # read apart from the model
    "bos_token_id", "compression_config", "eos_token_id", "mtp_disable_over_tokenizer", "mtp_num_layers",
    "mtp_replicate_modules", "num_nextn_predict_layers", "quantization", "quantization_config",
    "tie_word_embeddings", "use_longcat_dsa", "use_oe_embedding",
}  # fmt: skip
"""Keys that leave the logits as they are, or that are read apart; so do those that begin with an underscore."""
