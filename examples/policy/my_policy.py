from controller import ALL_ON_DEVICE, ALL_ON_EDGE
from controller.policies.base import BasicPolicy


class Threshold(BasicPolicy):
    """To the edge while the channel is better than usual, on the device while it is not."""

    def __init__(self, ratio: float = 1.0) -> None:
        self.ratio = ratio

    def cuts(self, observation):
        gains = [ue.gain_up[0] for ue in observation.ues]
        usual = [self.ratio * ue.mean_gain for ue in self.scenario.ues]
        return [ALL_ON_EDGE if gain > mean else ALL_ON_DEVICE for gain, mean in zip(gains, usual, strict=True)]
