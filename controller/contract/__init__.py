"""Everything that crosses a boundary between measurement, policy, simulator and testbed.

All structs are frozen. Units are SI and in the name of the field. Nothing in here does I/O.

Five systems fit in these types: LyMDO, DDS, model placement with online splitting, NOMA with
Li-GD and MJOA-MU. Fields that only some of them use have defaults.
"""

from controller.contract.base import Codec, Struct, UeName
from controller.contract.codec import PLAIN_CODECS
from controller.contract.cut import ALL_ON_DEVICE, ALL_ON_EDGE, Cut, cut_from_label, cut_label
from controller.contract.decision import Decision, UeDecision, UploadPlan
from controller.contract.observation import Observation, UeObservation
from controller.contract.outcome import STAGES, SlotOutcome, UeOutcome
from controller.contract.policy import AskUe, DecentralisedPolicy, LocalPolicy, Policy, checkpoint_info, watched_state
from controller.contract.profile import CodecSizes, CodecTimes, GraphNode, MeasuredCut, ModelProfile, ReferenceCore
from controller.contract.scenario import Arrivals, Edge, Knowledge, Radio, Scenario, ShadowingLaw, UeScenario, Uploading

__all__ = [
    "ALL_ON_DEVICE",
    "ALL_ON_EDGE",
    "PLAIN_CODECS",
    "STAGES",
    "Arrivals",
    "AskUe",
    "Codec",
    "CodecSizes",
    "CodecTimes",
    "Cut",
    "DecentralisedPolicy",
    "Decision",
    "Edge",
    "GraphNode",
    "Knowledge",
    "LocalPolicy",
    "MeasuredCut",
    "ModelProfile",
    "Observation",
    "Policy",
    "Radio",
    "ReferenceCore",
    "Scenario",
    "ShadowingLaw",
    "SlotOutcome",
    "Struct",
    "UeDecision",
    "UeName",
    "UeObservation",
    "UeOutcome",
    "UeScenario",
    "UploadPlan",
    "Uploading",
    "checkpoint_info",
    "cut_from_label",
    "cut_label",
    "watched_state",
]
