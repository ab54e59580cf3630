"""A results.json of made-up but plausible numbers, for tests of what is drawn and written from one."""

from __future__ import annotations

from typing import Any

# name, size in bytes, bits per weight, mean KLD in nats: a 4-billion-parameter model's usual ladder
LADDER = [
    ("Q8_0", 4_280_405_600, 8.5, 0.00061),
    ("Q6_K", 3_306_260_800, 6.57, 0.0021),
    ("UD-Q5_K_XL", 2_917_000_000, 5.8, 0.0052),
    ("Q5_K_M", 2_889_513_500, 5.74, 0.0057),
    ("Q5_K_S", 2_823_711_200, 5.61, 0.0064),
    ("UD-Q4_K_XL", 2_553_200_000, 5.07, 0.0149),
    ("Q4_K_M", 2_497_281_120, 4.96, 0.0171),
    ("Q4_K_S", 2_383_309_000, 4.73, 0.0213),
    ("IQ4_XS", 2_270_750_000, 4.51, 0.0224),
    ("Q4_0", 2_375_400_000, 4.72, 0.0391),
    ("Q3_K_M", 2_075_617_000, 4.12, 0.0682),
    ("Q2_K", 1_669_500_000, 3.31, 0.312),
]
N_ROWS, N_WINDOWS = 10_200, 40


def estimate(value: float | None, stderr: float | None = None, unit: str = "nats") -> dict[str, Any]:
    """An `E`, its interval two standard errors wide on each side."""
    return {
        "value": value,
        "stderr": stderr,
        "low": None if value is None or stderr is None else value - 2 * stderr,
        "high": None if value is None or stderr is None else value + 2 * stderr,
        "level": 0.95,
        "n": N_ROWS,
        "n_clusters": N_WINDOWS,
        "unit": unit,
    }


def text_numbers(kld: float, n_nonfinite: int = 0) -> dict[str, Any]:
    """The numbers of one quant on one text, scaled from its mean KLD."""
    return {
        "ppl": estimate(12.353 * (1 + kld), 0.509, "ppl"),
        "ppl_base": estimate(12.353, 0.507, "ppl"),
        "ln_ppl_ratio": estimate(kld * 0.9, kld * 0.05),
        "kld_mean": estimate(kld, kld * 0.03),
        "kld_median": kld * 0.5,
        "kld_p90": kld * 2.2,
        "kld_p95": kld * 3.2,
        "kld_p99": kld * 6.4,
        "kld_p999": kld * 14,
        "kld_max": kld * 31,
        "same_top": estimate(1 - 0.45 * kld**0.5, 0.0041, "fraction"),
        "delta_p_mean": estimate(-0.03 * kld**0.5, 0.0008, "probability"),
        "delta_p_rms": estimate(0.25 * kld**0.5, 0.0025, "probability"),
        "token_drops": 120,
        "token_leapfrogs": 88,
        "n_rows": N_ROWS,
        "n_nonfinite": n_nonfinite,
    }


def document(texts: tuple[str, ...] = ("wiki",), floor: float = 4.2e-6) -> dict[str, Any]:
    """A whole results.json."""
    null = {"kld_mean": estimate(floor, floor / 10), "kld_max": floor * 20, "same_top": estimate(1.0, 0.0, "fraction")}
    return {
        "format_version": 1,
        "base": {
            "name": "Qwen3-4B-BF16",
            "path": "/models/Qwen3-4B-BF16.gguf",
            "sha256": "ab" * 32,
            "size_bytes": 8_051_284_640,
            "bpw": 16.0,
            "architecture": "qwen3",
            "n_vocab": 151_936,
            "tokenizer_sha256": "cd" * 32,
        },
        "settings": {
            "n_ctx": 512,
            "flash_attn": True,
            "tensor_split": [],
            "llama_cpp_version": "0.5.0",
            "backend": "CPU",
        },
        "null_control": {"texts": dict.fromkeys(texts, null), "tasks": {}},
        "quants": [
            {
                "name": f"Qwen3-4B-{name}",
                "path": f"/models/Qwen3-4B-{name}.gguf",
                "sha256": f"{i:02x}" * 32,
                "size_bytes": size,
                "bpw": bpw,
                "file_type": name,
                "imatrix": None,
                "texts": {text: text_numbers(kld) for text in texts},
                "tasks": {},
            }
            for i, (name, size, bpw, kld) in enumerate(LADDER)
        ],
        "study": None,
    }
