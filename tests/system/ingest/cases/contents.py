"""Hostile contents of a bucket: names, indexes, configurations, tensors."""

import json
from collections.abc import Mapping

from cases.model import (
    EMBED,
    GOOD,
    INDEX,
    MODEL,
    NORM,
    SHARD_1,
    SHARD_2,
    SHARD_FILES,
    SHARDS,
    SPECS,
    UP,
    Case,
)
from ingest_world import BASE_CONFIG
from s3_stub import listing
from safetensors_files import index_of, safetensors_file
from weighbridge.weights.tensors import TensorSpec


def with_config(**members: object) -> Mapping[str, bytes]:
    return {MODEL: GOOD, "config.json": json.dumps(json.loads(BASE_CONFIG) | members).encode()}


def raw_config(text: bytes) -> Mapping[str, bytes]:
    return {MODEL: GOOD, "config.json": text}


def with_index(text: bytes, **more: bytes) -> Mapping[str, bytes]:
    return {**SHARD_FILES, INDEX: text, **more}


def index(weight_map: Mapping[str, object], **members: object) -> bytes:
    return json.dumps({"weight_map": weight_map, **members}).encode()


MAP = {spec.name: name for name, specs in SHARDS.items() for spec in specs}


def named(name: str, *, code: str | None = "BAD_NAME", words: str = "") -> Case:
    return Case(code, {MODEL: GOOD, name: GOOD}, words)


KEYS = {
    "k_nothing": Case("EMPTY", {}, "check its spelling"),
    "k_dotdot": Case("EMPTY", {f"../{MODEL}": GOOD}, "folders"),
    "k_dotdot_encoded": named("%2e%2e%2f.safetensors"),
    "k_double_encoded": named("%252e%252e%252f.safetensors"),
    "k_backslash_dotdot": named("..\\..\\x.safetensors"),
    "k_double_slash": Case("EMPTY", {f"/{MODEL}": GOOD}, "folders"),
    "k_trailing_space": named("x .safetensors"),
    "k_leading_space": named(" x.safetensors"),
    "k_nul": named("a\0b.safetensors"),
    "k_newline": named("a\nb.safetensors"),
    "k_cr": named("a\rb.safetensors"),
    "k_tab": named("a\tb.safetensors"),
    "k_ansi_escape": named("\x1b[31mred.safetensors"),
    "k_del": named("a\x7fb.safetensors"),
    "k_1000_bytes": named("a" * 900 + ".safetensors"),
    "k_nfc_nfd": named("e\u0301.safetensors"),
    "k_case_clash": named("Model.safetensors", code="NAME_COLLISION", words="upper and lower"),
    "k_rtl": named("a\u202eb.safetensors"),
    "k_zero_width": named("a\u200bb.safetensors"),
    "k_emoji": named("\U0001f600.safetensors"),
    "k_colon_stream": named("a:b.safetensors"),
    "k_tilde": named("~root.safetensors"),
    "k_dollar_home": named("$HOME.safetensors"),
    "k_shell_meta": named("`id`;$(id).safetensors"),
    "k_quote_sql": named("'; DROP TABLE orgs; --.safetensors"),
    "k_log4j": named("${jndi:ldap:x}.safetensors"),
    "k_xml_entity": named("&lt;&amp;.safetensors"),
    "k_hidden_dotfile": named(".hidden.safetensors"),
    "k_only_suffix": named(".safetensors"),
    "k_manifest_name": named("weighbridge-manifest.json", code=None),
    "k_staging_name": named("tmp-fill-x", code=None),
    "k_blob_name_guess": named("a" * 64, code=None),
    "k_directory_object": Case(None, {MODEL: GOOD, "": b""}),
    "k_zero_byte_notes": Case(None, {MODEL: GOOD, "README.md": b""}),
    "k_zero_bytes": Case("ST_TOO_SHORT", {MODEL: b""}, "0 bytes"),
    "k_sub_folder_only": Case("EMPTY", {f"checkpoint-100/{MODEL}": GOOD}, "1 folders"),
    "k_sub_folder_beside": Case(None, {MODEL: GOOD, "original/consolidated.pth": b"x"}),
    "k_dir_and_file_same": Case(None, {MODEL: GOOD, f"{MODEL}/x": b"x"}),
    "fl_py_module": Case(None, {MODEL: GOOD, "modeling.py": b"import os"}),
    "fl_pth_site": Case(None, {MODEL: GOOD, "evil.pth": b"import os"}),
    "fl_pytorch_bin": Case("PICKLE_ONLY", {"pytorch_model.bin": b"\x80\x04"}, "safetensors"),
    "fl_pt": Case("PICKLE_ONLY", {"model.pt": b"PK"}, "safetensors"),
    "fl_pkl_named_safetensors": Case("ST_HEADER_TOO_LONG", {MODEL: b"\x80\x04" * 20}),
    "fl_gguf": Case("EMPTY", {"model.gguf": b"GGUF"}, "no *.safetensors"),
    "fl_zip_named_safetensors": Case("ST_HEADER_TOO_LONG", {MODEL: b"PK\x03\x04" * 20}),
    "tk_own_tokenizer": Case(None, {MODEL: GOOD, "tokenizer.json": b"{" * 1000}),
    "ct_own_template": Case(None, {MODEL: GOOD, "chat_template.jinja": b"{{ ''.__class__ }}"}),
}
INDEXES = {
    "ix_good": Case(None, with_index(index_of(SHARDS))),
    "ix_missing_shard": Case(
        "MISSING_SHARD", {SHARD_1: SHARD_FILES[SHARD_1], INDEX: index_of(SHARDS)}, SHARD_2
    ),
    "ix_extra_shard": Case(
        "SURPLUS_SHARD", with_index(index_of(SHARDS), **{"extra.safetensors": GOOD}), "extra"
    ),
    "ix_shard_dotdot": Case("MISSING_SHARD", with_index(index(MAP | {"x": "../../x.safetensors"}))),
    "ix_shard_abs": Case("MISSING_SHARD", with_index(index(dict.fromkeys(MAP, "/etc/passwd")))),
    "ix_shard_url": Case("MISSING_SHARD", with_index(index(dict.fromkeys(MAP, "http://x/y")))),
    "ix_tensor_wrong_shard": Case("BAD_INDEX", with_index(index(MAP | {SPECS[0].name: SHARD_2}))),
    "ix_tensor_unlisted": Case(
        "BAD_INDEX", with_index(index({k: v for k, v in MAP.items() if k != SPECS[0].name}))
    ),
    "ix_tensor_not_there": Case("BAD_INDEX", with_index(index(MAP | {"ghost": SHARD_1}))),
    "ix_total_size_lie": Case(None, with_index(index(MAP, metadata={"total_size": 2**60}))),
    "ix_dup_keys": Case("BAD_INDEX", with_index(b'{"weight_map":{"a":"x","a":"y"}}'), "twice"),
    "ix_65mb": Case(
        "TOO_LARGE",
        page=lambda query, number: listing(
            f"<Contents><Key>{query['prefix']}{INDEX}</Key><Size>{64 * 1024**2 + 1}</Size></Contents>"
        ),
        words="bytes",
    ),
    "ix_deep": Case("BAD_INDEX", with_index(b'{"a":' * 100_000)),
    "ix_wide": Case("BAD_INDEX", with_index(b'{"a":[' + b"[]," * 1_500_000 + b"[]]}")),
    "ix_not_json": Case("BAD_INDEX", with_index(b"shards: 2")),
    "ix_nan": Case("BAD_INDEX", with_index(b'{"weight_map":{"a":NaN}}')),
    "ix_null": Case("BAD_INDEX", with_index(b"null")),
    "ix_empty": Case("BAD_INDEX", with_index(b"")),
    "ix_empty_map": Case("BAD_INDEX", with_index(b'{"weight_map":{}}'), "no weight_map"),
    "ix_file_number": Case("BAD_INDEX", with_index(b'{"weight_map":{"a":1}}')),
}
CONFIGS = {
    "cf_good": Case(None, with_config()),
    "cf_auto_map": Case(None, with_config(auto_map={"AutoModel": "evil--repo"})),
    "cf_attn_impl_internal": Case(None, with_config(_attn_implementation_internal="evil/repo")),
    "cf_trust_remote_code": Case(None, with_config(trust_remote_code=True)),
    "cf_model_type_path": Case("WRONG_CONFIG", with_config(model_type="../../x"), "model_type"),
    "cf_hidden_size_2_40": Case("WRONG_CONFIG", with_config(hidden_size=2**40), "hidden_size"),
    "cf_hidden_size_string": Case("WRONG_CONFIG", with_config(hidden_size="64"), "hidden_size"),
    "cf_hidden_size_bool": Case("WRONG_CONFIG", with_config(hidden_size=True)),
    "cf_vocab_zero": Case("WRONG_VOCABULARY", with_config(vocab_size=0)),
    "cf_quantized": Case(
        "UNSUPPORTED_QUANTIZATION", with_config(quantization_config={"quant_method": "gptq"})
    ),
    "cf_quant_bomb": Case("UNSUPPORTED_QUANTIZATION", with_config(quantization_config="x" * 9999)),
    "cf_dup_key": Case("BAD_CONFIG", raw_config(b'{"hidden_size":64,"hidden_size":65}'), "twice"),
    "cf_deep": Case("BAD_CONFIG", raw_config(b'{"a":' + b"[" * 500_000)),
    "cf_wide": Case("BAD_CONFIG", raw_config(b'{"a":[' + b"{}," * 200_000 + b"{}]}")),
    "cf_1mb": Case("TOO_LARGE", raw_config(bytes(1024 * 1024 + 1))),
    "cf_bom": Case("BAD_CONFIG", raw_config(b"\xef\xbb\xbf" + BASE_CONFIG)),
    "cf_nan": Case("BAD_CONFIG", raw_config(b'{"rope_theta":NaN}')),
    "cf_huge_number": Case("BAD_CONFIG", raw_config(b'{"rope_theta":1e999}')),
    "cf_long_integer": Case("BAD_CONFIG", raw_config(b'{"hidden_size":' + b"9" * 9999 + b"}")),
    "cf_yaml": Case("BAD_CONFIG", raw_config(b"hidden_size: 64")),
    "cf_pickle": Case("BAD_CONFIG", raw_config(b"\x80\x04\x95")),
    "cf_array": Case("BAD_CONFIG", raw_config(b"[]")),
    "cf_empty": Case("BAD_CONFIG", raw_config(b"")),
    "cf_utf16": Case("BAD_CONFIG", raw_config(BASE_CONFIG.decode().encode("utf-16"))),
}


def tensors(*specs: TensorSpec) -> Mapping[str, bytes]:
    return {MODEL: safetensors_file(specs)}


TENSORS = {
    "ar_missing_tensor": Case("WRONG_TENSORS", tensors(EMBED, UP), f"1 missing: {NORM.name}"),
    "ar_extra_tensor": Case("WRONG_TENSORS", tensors(*SPECS, TensorSpec("x", "F32", (1,))), "x"),
    "ar_wrong_dtype": Case(
        "WRONG_TENSORS", tensors(EMBED, UP, TensorSpec(NORM.name, "BF16", (64,))), "BF16"
    ),
    "ar_wrong_shape": Case(
        "WRONG_TENSORS", tensors(EMBED, TensorSpec(UP.name, "BF16", (64, 2048)), NORM), "64"
    ),
    "ar_other_arch": Case("WRONG_TENSORS", tensors(TensorSpec("transformer.h.0", "F32", (4,)))),
    "ar_vocab_plus_one": Case(
        "WRONG_VOCABULARY", tensors(TensorSpec(EMBED.name, "BF16", (101, 64)), UP, NORM), "101"
    ),
    "ar_lora_only": Case(
        "WRONG_TENSORS", {"adapter_model.safetensors": tensors(NORM)[MODEL]}, "missing"
    ),
    "ar_tensor_in_two_shards": Case("WRONG_TENSORS", {MODEL: GOOD, "b.safetensors": GOOD}),
    "ar_quantized_dtype": Case(
        "WRONG_TENSORS", tensors(EMBED, TensorSpec(UP.name, "I8", (2048, 64)), NORM), "I8"
    ),
    "ar_all_tensors_extra_padded": Case("ST_WRONG_SIZE", {MODEL: GOOD + bytes(64)}),
}
