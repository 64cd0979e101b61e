"""Make the samples beside this file: logs of the shape that each tool prints, with made-up numbers.

    python tests/benchmark/logs/make_samples.py

`expected.json` names each with its context and the tokens/s that its own counters say.
"""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

FOLDER = Path(__file__).parent / "samples"
EXPECTED: list[dict[str, object]] = []


def write(name: str, text: str | bytes, kind: str, rate: float, devices: int, length: int, **context: float) -> None:
    """Write a sample and its line in expected.json."""
    (FOLDER / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    given = {"devices": devices, "sequence_length": length, **context}
    EXPECTED.append({"file": name, "kind": kind, "tokens_per_second": rate, **given})


def times(first: float, usual: float, count: int, seed: int) -> list[float]:
    """Return seconds of steps: slow at first, then within 0.2 % of the usual."""
    noise = random.Random(seed)
    return [first, *(round(usual * (1 + noise.uniform(-0.002, 0.002)), 4) for _ in range(count - 1))]


def megatron() -> None:
    """Megatron-LM with its argument dump, MindSpeed, Megatron-DeepSpeed, BigScience, 2019, and Ascend's FSDP2."""
    lines = [
        "using world size: 16, data-parallel size: 4, context-parallel size: 1, tensor-model-parallel size: 2",
        "------------------------ arguments ------------------------",
        "  finetune ........................................ False",
        "  global_batch_size ............................... 256",
        "  seq_length ...................................... 4096",
        "-------------------- end of arguments ---------------------",
        "training ...",
    ]
    for n, s in enumerate(times(31.2, 5.61, 14, 1), start=1):
        lines.append(
            f" [2025-03-04 11:{n:02d}:07.123456] iteration {n:8d}/   10000 | consumed samples: {256 * n:12d} | elapsed time per "
            f"iteration (ms): {1e3 * s:.1f} | throughput per GPU (TFLOP/s/GPU): {1010.4 / s:.1f} | learning rate: 1.000000E-05 | "
            f"global batch size:   256 | lm loss: 1.0{n:02d}000E+01 | load_balancing_loss: 1.010000E+00 | loss scale: 1.0 | grad "
            "norm: 1.234 | number of skipped iterations:   0 | number of nan iterations:   0 |"
        )
        if n == 5:
            lines.append(" validation loss at iteration 5 | lm loss value: 9.1E+00 | lm loss PPL: 9.0E+03 | ")
    write("megatron.log", "\n".join(lines) + "\n", "Megatron or MindSpeed", 256 * 4096 / 5.61, 16, 4096)

    lines = []
    for n, s in enumerate(times(240.0, 104.9, 12, 2), start=12695):
        lines.append(
            f" [default7]: iteration {n:8d}/  115311 | consumed samples: {9841584 + 2048 * (n - 12695):12d} | consumed tokens: "
            f"{20155564032 + 2048 * 2048 * (n - 12695):12d} | elapsed time per iteration (s): {s:.2f} | learning rate: 5.969E-05 | "
            f"global batch size:  2048 | lm loss: 2.463556E+00 | grad norm: 0.174 | num zeros: 0.0 | number of skipped "
            f"iterations:   0 | number of nan iterations:   0 | samples per second: {2048 / s:.3f} | TFLOPs: {15680 / s:.2f} |"
        )
    write("bigscience.log", "\n".join(lines) + "\n", "Megatron or MindSpeed", 2048 * 2048 / 104.9, 384, 2048)

    lines = []
    for n, s in enumerate(times(40.0, 14.25, 12, 3), start=1):
        lines.append(
            f"[2024-03-07 15:27:{n:02d},646] [INFO] [timer.py:260:stop] epoch=0/micro_step={n}/global_step={n}, RunningAvgSamplesPer"
            f"Sec=53.730622229657506, CurrSamplesPerSec={768 / s:.9f}, MemAllocated=6.01GB, MaxMemAllocated=19.52GB"
        )
        lines.append(
            f" iteration {n:8d}/  317892 | consumed samples: {768 * n:12d} | consumed tokens: {768 * 4096 * n:12d} | elapsed time per "
            f"iteration (ms): {1e3 * s:.1f} | learning rate: 2.407E-04 | global batch size:   768 | lm loss: 5.905366E+00 | loss "
            "scale: 8192.0 | actual seqlen:  4096 | number of skipped iterations:   0 | number of nan iterations:   0 | samples per "
            f"second: {768 / s:.3f} | tokens per gpu per second (tgs): {768 * 4096 / s / 192:.3f} | TFLOPs: {995 / s:.2f} |"
        )
    write("megatron_deepspeed.log", "\n".join(lines) + "\n", "Megatron or MindSpeed", 768 * 4096 / 14.25, 192, 4096)

    for name, steady, told in (("fsdp2_pretraining.log", True, False), ("fsdp2_tuning.log", False, True)):
        noise, consumed, lines, rates = random.Random(4), 0, [], []
        for n, s in enumerate(times(8.1, 1.31, 15, 5), start=1):
            tokens = 8 * 4096 if steady else noise.randint(880, 905)
            consumed += tokens
            rates.append(tokens / s)
            speed = f" tokens/s: {tokens / s:.2f} | mfu: {tokens / s / 480:.2f} |" if told else ""
            lines.append(
                f"INFO [2026-01-05 10:00:{n:02d}] >>  iteration {n:8d}/    2000 | consumed samples: {8 * n:10d} | consumed tokens: "
                f"{consumed:10d} | elapsed time per iteration (ms): {1e3 * s:.2f} |{speed} learning rate: 1.700000E-07 | global "
                f"batch size: {8:5d} | lm loss: 3.300000E+00 | grad norm: 7.100 |"
            )
        write(name, "\n".join(lines) + "\n", "Megatron or MindSpeed", sorted(rates[1:])[7], 8, 4096)

    lines = [
        f" iteration {n:8d}/  500000 | elapsed time per iteration (ms): {1e3 * s:.1f} | learning rate 1.000E-04 | lm loss "
        "7.123456E+00 | loss scale 65536.0 |"
        for n, s in zip(range(100, 1100, 100), times(0.9, 0.612, 10, 6), strict=True)
    ]
    text = "\n".join(lines) + "\n"
    write("megatron_2019.log", text, "Megatron or MindSpeed", 131072 / 0.612, 8, 1024, batch_tokens=131072)


def lines_of_others() -> None:
    """Tools that print a line a step."""
    noise = random.Random(7)
    lines = ["[titan] 2025-05-06 10:00:00,000 - root - INFO - Peak FLOPS used for computing MFU: 3.120e+14"]
    for n in [1, *range(10, 130, 10)]:
        tps = 812 if n == 1 else round(3410 * (1 + noise.uniform(-0.002, 0.002)))
        lines.append(
            f"[rank0]:[titan] 2025-05-06 10:0{n // 60}:{n % 60:02d},001 - root - INFO - \x1b[31mstep: {n:2}  \x1b[32mloss:  7.1234  "
            f"\x1b[38;2;180;60;0mgrad_norm:  1.4321  \x1b[33mmemory: 38.12GiB(48.11%)  \x1b[34mtps: {tps:,}  \x1b[36mtflops: "
            f"{tps * 0.0493:.2f}  \x1b[35mmfu: {tps * 0.0493 / 3.12:.2f}%\x1b[39m"
        )
        if n == 60:
            lines.append(
                "[rank0]:[titan] 2025-05-06 10:01:01,001 - root - INFO - \x1b[32mvalidate step: 60  loss:  7.0  tps: 9,812\x1b[39m"
            )
    write("torchtitan.log", "\n".join(lines) + "\n", "torchtitan", 3410 * 64, 64, 8192)

    lines = [
        "tokens per iteration will be: 491,520",
        "Initializing a new model from scratch",
        "number of parameters: 123.59M",
        "step 0: train loss 10.9874, val loss 10.9870",
    ]
    for n, s in enumerate(times(28.0, 0.2503, 14, 8)):
        lines.append(
            f"iter {10 * n}: loss {10 - n / 3:.4f}, time {1e3 * s:.2f}ms, mfu {-100 if n == 0 else 38.12:.2f}%"
        )
    write("nanogpt.log", "\n".join(lines) + "\n", "nanoGPT", 491520 / 0.2503, 8, 1024)

    lines = [
        "Tokens / micro-batch / rank: 32 x 2048 = 65,536",
        "Tokens / micro-batch: 524,288",
        "Total batch size 524,288 => gradient accumulation steps: 1",
    ]
    for n, s in enumerate(times(30.0, 0.4502, 16, 9)):
        lines.append(
            f"step {n:05d}/21400 ({n / 214:.2f}%) | loss: {11 - n / 9:.6f} | grad norm: 0.8123 | lrm: 1.00 | dt: {1e3 * s:.2f}ms | "
            f"tok/sec: {int(524288 / s):,} | mfu: {21.95 / s:.2f} | total time: {n * 0.0075:.2f}m"
        )
    write("nanochat.log", "\n".join(lines) + "\n", "nanochat", 524288 / 0.4502, 8, 2048)

    lines = []
    for n, s in enumerate(times(13.0, 3.9, 14, 10)):
        tgs = 16384 / s
        lines.append(
            f"2024-07-07 12:29:{n:02d},636\tINFO train.py:323 in record_current_batch_training_metrics -- tflops={tgs * 0.0444},step={n},"
            f"loss=11.6137,tgs (tokens/gpu/second)={tgs:.2f},tgs/last_tgs_1={tgs:.2f},tgs/tgs_all={tgs - 9:.2f},lr=6.0e-07,"
            f"loss_scale=65536.0,grad_norm=65.15,micro_num=4,num_consumed_tokens={131072 * (n + 1)},inf_nan_skip_batches=0,"
            "num_samples_in_batch=16,largest_length=2048,largest_batch=5,smallest_batch=3,adam_beta2=0.95,fwd_bwd_time=3.71"
        )
    write("internevo.log", "\n".join(lines) + "\n", "InternEvo", 131072 / 3.9, 8, 2048)

    lines = []
    for n, s in enumerate(times(9.0, 2.05, 14, 11), start=1):
        lines.append(
            f"05/11 10:{n:02d}:11 - mmengine - \x1b[4m\x1b[97mINFO\x1b[0m - Iter(train) [{10 * n:5d}/1060]  lr: 2.0000e-05  eta: 0:35:11  "
            f"time: {s:.4f}  data_time: 0.0081  memory: 38112  loss: 1.2034  tflops: {385.1 / s:.4f}  tokens_per_sec: {8192 / s:.4f}"
        )
    write("xtuner_mmengine.log", "\n".join(lines) + "\n", "XTuner", 8 * 8192 / 2.05, 8, 8192)

    noise, lines, rates, consumed = random.Random(12), [], [], 0
    for n, s in enumerate(times(60.0, 21.2, 14, 13), start=1):
        tokens = 32768 - noise.randint(0, 150)
        consumed += tokens
        rates.append(tokens / s)
        lines.append(
            f"[XTuner][RANK 0][2025-09-12 10:{n:02d}:21][INFO] Epoch 1 Step {n}/500 data_time: 0.0132 lr: 1.000000e-05 time: {s:.4f} "
            f"text_tokens: {tokens} total_consumed_tokens: {consumed} reduced_llm_loss: 1.51230000 grad_norm: 0.93210000 max_memory: "
            f"48.11 GB reserved_memory: 52.21 GB tgs: {tokens / s:.1f} e2e_tgs: {tokens / s - 20:.1f} eta: 2:52:11"
        )
    write("xtuner_v1.log", "\n".join(lines) + "\n", "XTuner", 256 * sorted(rates[1:])[6], 256, 32768)

    lines = []
    for n, s in enumerate(times(48.2, 6.05, 14, 14)):
        lines.append(
            f"I0804 08:14:{n:02d}.000000 1 metric_logger.py:196] completed step: {n}, seconds: {s:.3f}, TFLOP/s/device: {2730 / s:.3f}, "
            f"Tokens/s/device: {49152 / s:.3f}, total_weights: {8 * 49152}, loss: {12 - n / 9:.3f}, lm_loss: 6.765, perplexity: 10.000"
        )
    write("maxtext.log", "\n".join(lines) + "\n", "MaxText", 8 * 49152 / 6.05, 8, 8192)

    noise, lines = random.Random(15), []
    for n in range(1, 15):
        rate = 812.0 if n == 1 else 201300 * (1 + noise.uniform(-0.002, 0.002))
        lines += [
            f"[batch={n}/4800]:", f"\t Train time/batch: {n - 1}", f"\t Train time/sample: {1024 * (n - 1)}",
            f"\t Train time/token: {1024 * 2048 * (n - 1)}", f"\t Train loss/train/total: {11 - n / 5:.4f}",
            f"\t Train throughput/batches_per_sec: {rate / 2048 / 1024:.4f}", f"\t Train throughput/samples_per_sec: {rate / 2048:.4f}",
            f"\t Train throughput/device/samples_per_sec: {rate / 2048 / 16:.4f}", f"\t Train throughput/tokens_per_sec: {rate:.4f}",
            f"\t Train throughput/device/tokens_per_sec: {rate / 16:.4f}", f"\t Train throughput/flops_per_sec: {rate * 1.2e10:.4f}",
            f"\t Train throughput/device/flops_per_sec: {rate * 1.2e10 / 16:.4f}", f"\t Train throughput/device/mfu: {rate * 1.2e10 / 16 / 312e12:.4f}",
            "\t Train time/train: 0.0112", "\t Train time/val: 0.0000", "\t Train lr-DecoupledAdamW/group0: 0.0000",
        ]  # fmt: skip
    write("composer.log", "\n".join(lines) + "\n", "llm-foundry", 201300, 16, 2048)

    lines = []
    for n, s in enumerate(times(40.0, 3.684, 14, 16)):
        lines.append(
            f"Training epoch 0, iteration {n}/99 | lr: 1.649e-06 | global_batch_size: 128 | global_step: {n} | max_memory_reserved: "
            f"140129599488 | max_memory_allocated: 107693703168 | reduced_train_loss: 11.97 | train_step_timing in s: {s:.3f} | "
            f"TFLOPS_per_GPU: {1743 / s:.3e} | consumed_samples: {128 * (n + 1)}"
        )
    write("nemo2.log", "\n".join(lines) + "\n", "NeMo", 128 * 8192 / 3.684, 8, 8192)

    bars = []
    for n, s in enumerate(times(40.0, 3.13, 12, 17)):
        for _ in range(2):
            bars.append(
                f"Epoch 0: :  {n}%|{'█' * n}{' ' * (12 - n)}| {n + 1}/100 [00:{n:02d}<10:48, reduced_train_loss=10.20, global_step="
                f"{n:.3f}, consumed_samples={256.0 * (n + 1)}, train_step_timing in s={s:.3f}]"
            )
    write("nemo_bar.log", "\r".join(bars) + "\n", "NeMo", 256 * 4096 / 3.13, 64, 4096)

    lines, noise = [], random.Random(18)
    for n in range(19, 280, 20):
        speed = 61.0 if n == 19 else 185.2 * (1 + noise.uniform(-0.002, 0.002))
        lines.append(
            f"[06/15 10:12:{n % 60:02d} lb.utils.events]:  eta: 1:03:11  iteration: {n}/10000  consumed_samples: {128 * (n + 1)}  "
            f"total_loss: 8.512  time: {128 / speed:.4f} s/iter  data_time: 0.0012 s/iter total_throughput: {speed:.2f} samples/s lr: 1.50e-04"
        )
    write("libai.log", "\n".join(lines) + "\n", "LiBai", 185.2 * 1024, 8, 1024)

    lines = []
    for n, s in enumerate(times(5.0, 0.5301, 14, 19)):
        lines.append(
            f"step {n:5d} | loss: {10 - n / 4:.6f} | lr {1e-4:.4e} | norm: 0.9312 | dt: {1e3 * s:.2f}ms | tokens/s: {524288 / s:.2f}"
        )
    write("own_script.log", "\n".join(lines) + "\n", "unknown tool", 524288 / 0.5301, 8, 1024)


def trainers() -> None:
    """The Trainer and what grew from it."""
    clock, seen, history = 0.0, 0, []
    noise = random.Random(20)
    for n, s in enumerate(times(90.0, 21.4, 12, 21), start=1):
        clock, seen = clock + s, seen + 10 * 64 * 1900 + noise.randint(-300, 300)
        history.append(
            {
                "epoch": n / 20,
                "grad_norm": 1.2,
                "learning_rate": 2e-5,
                "loss": 2.1,
                "num_input_tokens_seen": seen,
                "step": 10 * n,
                "train_runtime": round(clock, 4),
            }
        )
    last = {
        "epoch": 0.6,
        "num_input_tokens_seen": seen,
        "step": 120,
        "total_flos": 5.1e18,
        "train_loss": 2.0,
        "train_runtime": round(clock, 4),
        "train_samples_per_second": 7680 / clock,
        "train_steps_per_second": 120 / clock,
    }
    state = {
        "best_metric": None,
        "epoch": 0.6,
        "global_step": 120,
        "log_history": [*history, last],
        "max_steps": 120,
        "num_input_tokens_seen": seen,
        "total_flos": 5.1e18,
        "train_batch_size": 8,
    }
    write("trainer_state.json", json.dumps(state, indent=2), "transformers' Trainer", 64 * 10 * 1900 / 21.4, 8, 2048)

    results = {
        "epoch": 3.0,
        "num_input_tokens_seen": 51200000,
        "total_flos": 2.1e18,
        "train_loss": 1.21,
        "train_runtime": 6400.0,
        "train_samples_per_second": 9.1,
        "train_steps_per_second": 0.142,
    }
    write("train_results.json", json.dumps(results, indent=4), "transformers' Trainer", 8000, 8, 4096)
    write(
        "llamafactory_train_results.json",
        json.dumps({**results, "effective_tokens_per_sec": 912.5}, indent=4),
        "LLaMA-Factory",
        8000,
        8,
        4096,
    )

    lines = [
        "***** Running training *****",
        "  Num examples = 7,680",
        "  Total train batch size (w. parallel, distributed & accumulation) = 64",
        "  Number of trainable parameters = 6,738,415,616",
    ]
    for n in range(1, 13):
        lines.append(
            f"\r {n}%|█         | {10 * n}/120 [{(n * 20) // 60:02d}:{(n * 20) % 60:02d}<10:11,  2.01s/it]{{'loss': 2.1034, 'grad_norm': nan, 'learning_rate': 2e-05, 'epoch': {n / 20}}}"
        )
    lines.append(
        "{'train_runtime': 241.2, 'train_samples_per_second': 31.84, 'train_steps_per_second': 0.4975, 'train_loss': 2.04, 'epoch': 0.6}"
    )
    write(
        "trainer_console.log",
        "\n".join(lines) + "\n",
        "transformers' Trainer",
        131072 / 2.0,
        8,
        2048,
        batch_tokens=131072,
    )

    lines, clock = [], 0.0
    for n, s in enumerate(times(30.0, 12.6, 14, 22), start=1):
        clock += s
        seen = n * 10 * 32 * 811
        lines.append(
            json.dumps(
                {
                    "current_steps": 10 * n,
                    "total_steps": 500,
                    "loss": 1.02,
                    "lr": 4.9e-05,
                    "epoch": n / 10,
                    "percentage": n / 50,
                    "elapsed_time": f"0:{int(clock) // 60:02d}:{int(clock) % 60:02d}",
                    "remaining_time": "0:40:11",
                    "throughput": round(seen / clock, 2),
                    "total_tokens": seen,
                }
            )
        )
    write("trainer_log.jsonl", "\n".join(lines) + "\n", "LLaMA-Factory", 10 * 32 * 811 / 12.6, 8, 2048)

    lines, clock = (
        [
            "[INFO:swift] model_parameter_info: PeftModelForCausalLM: 7628.4166M Params (40.3702M Trainable [0.5292%]), 0.0020M Buffers."
        ],
        0.0,
    )
    for n, s in enumerate(times(40.0, 19.95, 14, 23), start=1):
        clock += s
        lines.append(
            str(
                {
                    "loss": 1.607,
                    "token_acc": 0.6355,
                    "grad_norm": 1.97,
                    "learning_rate": 0.0001,
                    "memory(GiB)": 12.44,
                    "train_speed(iter/s)": round(5 * n / clock, 6),
                    "epoch": 0.0,
                    "global_step/max_steps": f"{5 * n}/9060",
                    "percentage": "0.01%",
                    "elapsed_time": f"{int(clock) // 60}m {int(clock) % 60}s",
                    "remaining_time": "9h 30m 16s",
                }
            )
        )
    write("ms_swift.log", "\n".join(lines) + "\n", "ms-swift", 5 * 16000 / 19.95, 4, 2048, batch_tokens=16000)

    lines, clock = [], 0.0
    for n, s in enumerate(times(40.0, 23.1, 14, 24), start=1):
        clock += s
        lines.append(
            json.dumps(
                {
                    "loss": 1.607,
                    "grad_norm": 1.97,
                    "learning_rate": 0.0001,
                    "iteration": f"{5 * n}/426",
                    "elapsed_time": f"{int(clock)}s",
                    "remaining_time": "51m 3s",
                    "memory(GiB)": 113.6,
                    "train_speed(s/it)": round(clock / (5 * n), 6),
                    "throughput(TFLOP/s/GPU)": 181.2,
                    "MFU": 0.183,
                }
            )
        )
    write(
        "megatron_swift_logging.jsonl",
        "\n".join(lines) + "\n",
        "ms-swift",
        5 * 65536 / 23.1,
        16,
        8192,
        batch_tokens=65536,
    )


def exports() -> None:
    """Records by name: wandb, CSV, event files, ours."""
    summary = {
        "_runtime": 901.2,
        "_step": 120,
        "_timestamp": 1764000000.1,
        "_wandb": {"runtime": 901},
        "throughput/tokens_per_sec": 84112.5,
        "throughput/device/tokens_per_sec": 10514.0625,
        "throughput/device/mfu": 0.412,
        "loss/train/total": 2.3,
    }
    write("wandb-summary.json", json.dumps(summary), "llm-foundry", 84112.5, 8, 2048)

    noise, lines, clock = random.Random(25), [], 0.0
    for n, s in enumerate(times(90.0, 41.0, 14, 26), start=1):
        clock += s
        lines.append(
            json.dumps(
                {
                    "_step": n,
                    "_runtime": round(clock, 3),
                    "_timestamp": 1764000000 + clock,
                    "train/global_step": 10 * n,
                    "train/loss": 2.0,
                    "train/num_input_tokens_seen": 10 * 65536 * n,
                    "train/epoch": n / 9,
                }
            )
        )
    write("wandb_history.jsonl", "\n".join(lines) + "\n", "transformers' Trainer", 10 * 65536 / 41.0, 8, 2048)

    rows = [
        '"Step","brisk-lake-3 - train/tok_per_sec","brisk-lake-3 - train/tok_per_sec__MIN","brisk-lake-3 - train/tok_per_sec__MAX"'
    ]
    for n in range(14):
        rate = 9000 if n == 0 else round(1160000 * (1 + noise.uniform(-0.002, 0.002)))
        rows.append(f'"{100 * n}","{rate}","{rate}","{rate}"')
    write("wandb_export.csv", "\n".join(rows) + "\n", "nanochat", 1160000, 8, 2048)

    rows = ["epoch,lr,step,train_loss,train|device|tokens_per_sec,val_loss"]
    for n in range(14):
        rate = 500 if n == 0 else 5210 * (1 + noise.uniform(-0.002, 0.002))
        rows += [f"0,0.0001,{50 * n + 49},,,", f"0,,{50 * n + 49},{9 - n / 3:.4f},{rate:.3f},"]
    write("lightning_metrics.csv", "\n".join(rows) + "\n", "CSV", 4 * 5210, 4, 1024)

    rows, clock = ["step,time,tokens"], 0.0
    for n, s in enumerate(times(20.0, 4.12, 14, 27), start=1):
        clock += s
        rows.append(f"{10 * n},{clock:.3f},{10 * n * 65536}")
    write("columns.csv", "\n".join(rows) + "\n", "CSV", 10 * 65536 / 4.12, 2, 2048)

    records = [event(0, 1764000000.0, version=True)]
    for n, s in enumerate(times(20.0, 2.5, 14, 28), start=1):
        at = 1764000000.0 + 3 * n
        records += [
            event(n, at, [("iteration-time", s, "value"), ("iteration-time vs samples", s, "value")]),
            event(
                n,
                at,
                [
                    ("throughput", 612.4 / s, "value"),
                    ("batch-size", 64, "value"),
                    ("batch-size vs samples", 64, "value"),
                ],
            ),
            event(n, at, [("lm loss", 9.0, "tensor"), ("world-size", 8, "value")]),
        ]
    write(
        "events.out.tfevents.1764000000.megatron", b"".join(records), "Megatron or MindSpeed", 64 * 4096 / 2.5, 8, 4096
    )

    records = [event(0, 1764000000.0, version=True)]
    for n in range(1, 15):
        rate = 500 if n == 1 else 3410 * (1 + noise.uniform(-0.002, 0.002))
        records.append(
            event(10 * n, 1764000000.0 + 30 * n, [("throughput(tps)", rate, "tensor"), ("mfu(%)", rate / 64, "tensor")])
        )
    write("events.out.tfevents.1764000001.torchtitan", b"".join(records)[:-7], "torchtitan", 8 * 3410, 8, 8192)

    lines = [
        json.dumps(
            {
                "step": n,
                "loss/total": 9.0,
                "perf/tokens_per_second": 30000 if n == 1 else 91000 * (1 + noise.uniform(-0.002, 0.002)),
                "perf/mfu": 0.31,
            }
        )
        for n in range(1, 15)
    ]
    write("metrics.jsonl", "\n".join(lines) + "\n", "longcat", 91000, 8, 4096)
    write(
        "longcat_summary.json",
        json.dumps({"perf/tokens_per_second": 91000.0, "loss/total": 3.1}, indent=2),
        "longcat",
        91000,
        8,
        4096,
    )


def crc32c(data: bytes) -> int:
    """Return the masked checksum of a TFRecord."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def varint(number: int) -> bytes:
    """Return a number as protocol buffers write it."""
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def chunk(field: int, content: bytes) -> bytes:
    """Return a field of bytes."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def event(
    step: int, wall_time: float, scalars: list[tuple[str, float, str]] | None = None, *, version: bool = False
) -> bytes:
    """Return the record of an event."""
    data = b"\x09" + struct.pack("<d", wall_time) + (b"\x10" + varint(step) if step else b"")
    if version:
        data += chunk(3, b"brain.Event:2")
    values = b""
    for tag, number, form in scalars or []:
        if form == "value":
            content = b"\x15" + struct.pack("<f", number)
        else:
            content = chunk(8, b"\x08\x01" + chunk(2, b"") + chunk(5, struct.pack("<f", number)))
        values += chunk(1, chunk(1, tag.encode()) + content)
    if values:
        data += chunk(5, values)
    header = struct.pack("<Q", len(data))
    return header + struct.pack("<I", crc32c(header)) + data + struct.pack("<I", crc32c(data))


if __name__ == "__main__":
    megatron()
    lines_of_others()
    trainers()
    exports()
    (FOLDER / "expected.json").write_text(json.dumps(EXPECTED, indent=1) + "\n")
