"""What a student can be taught by: one small class a method, one file a family."""

from kdrun.methods.base import Batch, Method, Needs, Objective, TeacherOutput
from kdrun.methods.hard_labels import CE, LSR
from kdrun.methods.kd import KD, KDUniform, TfKDSelf
from kdrun.methods.tfkd_reg import TfKDReg

__all__ = [
    "CE",
    "KD",
    "LSR",
    "Batch",
    "KDUniform",
    "Method",
    "Needs",
    "Objective",
    "TeacherOutput",
    "TfKDReg",
    "TfKDSelf",
]
