# A virtual environment, packages from the index, tests, and a package built from source.
online() { nsenter --net=/run/online "$@"; }
id dev > /dev/null 2>&1 || useradd --create-home --shell /bin/bash dev
mkdir -p /home/dev/py/src/demo
cat > /home/dev/py/pyproject.toml <<'TOML'
[build-system]
requires = ["setuptools", "wheel"]
build-backend = "setuptools.build_meta"
[project]
name = "demo"
version = "1"
TOML
echo 'def add(a, b): return a + b' > /home/dev/py/src/demo/__init__.py
printf 'import demo, subprocess, tempfile, pathlib\ndef test_add(): assert demo.add(1, 2) == 3\ndef test_run(tmp_path):\n    (tmp_path / "a").write_text("x")\n    assert subprocess.run(["true"]).returncode == 0\n' > /home/dev/py/test_demo.py
chown -R dev: /home/dev/py
cd /home/dev/py
as() { runuser -u dev -- env HOME=/home/dev PIP_DISABLE_PIP_VERSION_CHECK=1 "$@"; }
as python3 -m venv .venv
online runuser -u dev -- env HOME=/home/dev .venv/bin/pip install -q build setuptools wheel pytest requests flask click pyyaml rich
as .venv/bin/python -m build --no-isolation --wheel
as .venv/bin/pip install -q --no-index dist/demo-1-py3-none-any.whl
as .venv/bin/python -m pytest -q
as .venv/bin/python -m compileall -q .venv/lib
as .venv/bin/flask --version
as .venv/bin/pip list > /dev/null
as python3 - <<'PY'
import concurrent.futures, json, multiprocessing, sqlite3, subprocess, tempfile
with concurrent.futures.ProcessPoolExecutor(2) as pool:
    print(sum(pool.map(abs, range(200))))
for n in range(100):
    with tempfile.NamedTemporaryFile("w") as file:
        json.dump({"n": n}, file)
print(subprocess.run("echo a | tr a b", shell=True, capture_output=True).stdout)
PY
