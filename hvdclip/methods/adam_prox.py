"""AdamProx: Adam with weight decay as a proximal step.

Zhuang, Liu, Cutkosky, Orabona: Understanding AdamW through Proximal Methods and Scale-Freeness. TMLR 2022.
"""

from hvdclip.engine import LocalMethod
from hvdclip.flat import Gradient
from hvdclip.settings import AveragingSettings, Finite, setting


class AdamProx(LocalMethod):
    name = "adam_prox"
    formula = (
        "m_i, v_i = Adam's moments of g_i; x_i = (x_i - lr m_i^/(sqrt(v_i^) + eps))/(1 + wd lr/lr_0); every I steps "
        "x_i = mean x"
    )
    paper = "Zhuang, Liu, Cutkosky, Orabona, TMLR 2022"
    message_size = "P every I steps"
    memory = "2P"
    peak = "4P"

    class Settings(AveragingSettings):
        """lr is the current step size, lr_0 the constructor's, I is interval."""

        beta1: Finite = setting(0.9, ge=0, lt=1, description="decay rate of the first moment m")
        beta2: Finite = setting(0.999, ge=0, lt=1, description="decay rate of the second moment v")
        eps: Finite = setting(1e-8, gt=0, description="eps, added to sqrt(v^)", unit="g")

    def set_up(self) -> None:
        self.space.refuse_float16(self.name)

    @property
    def changes(self) -> tuple[str, ...]:
        return ("m", "v")

    def keeps(self) -> tuple[str, ...]:
        return ("m", "v")

    def local_step(self, g: Gradient) -> None:
        beta1, beta2, eps = self.settings.beta1, self.settings.beta2, self.settings.eps
        m, v = self.vectors["m"], self.vectors["v"]
        t = self.numbers["t"] = self.numbers.get("t", 0) + self.skip.taken
        m.lerp_(g, 1 - beta1)
        v.lerp_(g**2, 1 - beta2)
        of_m, of_v = 1 / (1 - beta1**t), 1 / (1 - beta2**t)  # m^ = of_m * m
        self.move(m / ((of_v * v) ** 0.5 + eps), of_m, weight_decay=False)  # x -= lr * m^/(sqrt(v^) + eps)
        self.descent.shrink(self.eta * self.step_scale / self.settings.lr)  # x /= 1 + wd * lr/lr_0
