"""Random configs of a small project, and overrides of them."""

import random

NAMES = ["v0", "v1", "v2", "v3"]
NODES = ["n0", "n1", "n2", "n3"]


class Writer:
    """Writes a project: values, a base with helpers, a child, a mix-in."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def expression(self, values):
        """An expression of a number, from a literal, a value, a ref, a helper, in all kinds of scopes."""
        name = self.random.choice(values)
        forms = [
            str(self.random.randint(1, 99)),
            str(self.random.randint(1, 99)),
            f"ref({name!r})",
            f"ref({name!r})",
            f"ref({name!r}, lambda x: x + 1)",
            "ref('d.k')",
            name,
            f"{name} * 2",
            f"(lambda: {name})()",
            f"sum({name} for _ in [1])",
            f"double({name})",
            "take()",
            "d['k']",
            "d.get('k')",
        ]
        return self.random.choice(forms)

    def node(self, known, values):
        inner = self.random.choice([None, None, *known])
        if inner is not None and self.random.random() < 0.3:
            inner = f"clone({inner})"
        options = self.random.choice(["None", "None", "d", "[d, 1]"])
        return f"L(Net)(width={self.expression(values)}, rate={self.expression(values)}, inner={inner}, name={options})"

    def base(self):
        values = self.random.sample(NAMES, len(NAMES))
        lines = [f"{name} = {self.random.randint(100, 999)}" for name in values]
        lines += ["d = {'k': 7, 'other': 8}", "def double(x):\n    return 2 * x"]
        lines += [f"def take():\n    return {self.random.choice([*values, '5'])}"]
        known: list[str] = []
        for name in NODES:
            lines.append(f"{name} = {self.node(known, values)}")
            known.append(name)
        used = self.random.sample(NODES, self.random.randint(1, 3))
        parts = ", ".join(f"p{i}={name}" for i, name in enumerate(used))
        lines.append(
            f"runner = L(Run)(many=[{self.random.choice(NODES)}], x=ref({self.random.choice(NAMES)!r}), {parts})"
        )
        return "\n".join(lines) + "\n"

    def child(self, module):
        taken = "*" if self.random.random() < 0.7 else ", ".join([*NAMES, *NODES, "d", "runner", "double", "take"])
        lines = [f"from .{module} import {taken}"]
        for _ in range(self.random.randint(0, 3)):
            node, attribute = self.random.choice(NODES), self.random.choice(["width", "rate"])
            changes = [
                f"{node}.{attribute} = {self.expression(NAMES)}",
                f"{self.random.choice(NAMES)} = {self.random.randint(1000, 2000)}",
                "d['more'] = 3",
                f"runner.extra = {self.random.choice(NODES)}",
                f"{node} = replace({node}, L(Net)(width={self.expression(NAMES)}))",
            ]
            lines.append(self.random.choice(changes))
        return "\n".join(lines) + "\n"

    def override(self):
        node = self.random.choice(NODES)
        return self.random.choice(
            [
                f"{self.random.choice(NAMES)}=54321",
                f"{node}.width=54321",
                f"{node}.rate=54321",
                f"{node}.use_bias=false",
                f"{node}.inner=null",
                "runner.many[0].width=54321",
                "+runner.fresh=54321",
                "+fresh=54321",
                "d.k=54321",
                "d.other=54321",
                "+d.fresh=54321",
                "runner.x=54321",
                f"{node}._target_=a.parts.Run",
            ]
        )
