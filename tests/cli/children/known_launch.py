"""A runtime whose cost of launching is known: real products, and before each a busy wait."""

import hashlib
import time
from statistics import median

from memfloor.record import ObservedPath, Outputs
from memfloor.runtimes.protocol import TracedParts

# What the host waits before each product, by the option `wait`, in microseconds.
WAITS = ("500", "2000")


class KnownLaunch:
    """Multiply by one matrix a layer, each after a busy wait whose length its own clock records."""

    name = "known-launch"
    summary = "products that are launched at a known cost"
    options = {"wait": WAITS}  # noqa: RUF012

    def __init__(self, request):
        self._request = request
        self._wait = 1e-6 * float(request.cell.options["wait"])
        self.waited = []

    @classmethod
    def unavailable_reason(cls, cell=None):
        return None

    @classmethod
    def launches_one_by_one(cls, cell):
        return True

    @classmethod
    def steps_per_call(cls, cell):
        return 1

    def prepare(self):
        import torch

        torch.set_num_threads(self._request.cell.threads or torch.get_num_threads())
        # The arms of a comparison must give the same.
        torch.manual_seed(self._request.seed)
        spec = self._request.cell.spec
        layers = [
            torch.nn.ModuleDict({"o_proj": torch.nn.Linear(spec.hidden_size, spec.intermediate_size, bias=False)})
            for _ in range(spec.num_hidden_layers)
        ]
        self._model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList(layers)})
        self._input = torch.randn(1, spec.hidden_size)
        self._cache = type("NoCache", (), {"update": None})()

    def step(self):
        import torch

        start, waited = time.perf_counter, 0.0
        with torch.inference_mode():
            for layer in self._model["layers"]:
                begin = start()
                while start() - begin < self._wait:
                    pass
                waited += start() - begin
                self._product = layer["o_proj"](self._input)
        self.waited.append(waited)

    def outputs(self, steps):
        tokens = []
        for _ in range(steps):
            self.step()
            tokens.append((int(self._product.argmax()),))
        return Outputs(tokens=tuple(tokens), logits_sha256=hashlib.sha256(self._product.numpy().tobytes()).hexdigest())

    def observed_path(self):
        self.step()
        return ObservedPath(operators={"aten::linear": len(self._model["layers"])}, facts=self._facts())

    def _facts(self):
        return {"waited_seconds": repr(median(self.waited))}

    def traced_parts(self):
        return TracedParts(module=self._model, cache=self._cache, eager_step=self.step)
