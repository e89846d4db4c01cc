"""Forward kinematics of a floating robot, by MuJoCo: where its bodies are and how they move."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dipod.errors import UserError, require
from dipod.extras import load_extra
from dipod.motions.rotations import Array, conjugate, rotate


@dataclass(frozen=True)
class Skeleton:
    """A robot with a free root and hinges.

    Attributes:
        model: MuJoCo's.
        joints: names of the hinges, in the model's order, which goes down each limb before the next.
        bodies: names, in the same manner of order, the root first.
        parents: the index of every body's parent among ``bodies``; -1 for the root.
        lower: lowest angle of every joint, rad, [J]; -inf without a limit.
        upper: highest.
    """

    model: Any
    joints: tuple[str, ...]
    bodies: tuple[str, ...]
    parents: tuple[int, ...]
    lower: Array
    upper: Array
    _joint_places: tuple[int, int]
    _body_ids: tuple[int, ...]

    def forward(
        self,
        position: Array,
        rotation: Array,
        joints: Array,
        velocity: Array | None = None,
        spin: Array | None = None,
        joint_velocity: Array | None = None,
    ) -> tuple[Array, Array, Array, Array]:
        """Bodies of T frames from the root's motion and the joints'.

        Args:
            position: of the root, m, [T, 3].
            rotation: of the root, unit wxyz, [T, 4].
            joints: rad, in the order of ``self.joints``, [T, J].
            velocity: of the root's origin, m/s, [T, 3]; 0 where it is left out, as are the two below.
            spin: the root's angular velocity in the world's axes, rad/s, [T, 3].
            joint_velocity: rad/s, [T, J].

        Returns:
            Positions [T, B, 3], rotations wxyz [T, B, 4], velocities of the bodies' origins [T, B, 3] and angular
            velocities [T, B, 3], all in the world's axes.
        """
        mujoco = load_extra("mujoco", "mjlab")
        data = mujoco.MjData(self.model)
        frames, ids = len(joints), list(self._body_ids)
        qpos, qvel = np.zeros((frames, self.model.nq)), np.zeros((frames, self.model.nv))
        angles, speeds = (slice(place, place + len(self.joints)) for place in self._joint_places)
        root = int(self.model.jnt_qposadr[self._root_joint]), int(self.model.jnt_dofadr[self._root_joint])
        qpos[:, root[0] : root[0] + 3], qpos[:, root[0] + 3 : root[0] + 7] = position, rotation
        qpos[:, angles] = joints
        if velocity is not None:
            qvel[:, root[1] : root[1] + 3] = velocity
        if spin is not None:
            qvel[:, root[1] + 3 : root[1] + 6] = rotate(conjugate(rotation), spin)
        if joint_velocity is not None:
            qvel[:, speeds] = joint_velocity
        places, turns = np.empty((frames, len(ids), 3)), np.empty((frames, len(ids), 4))
        motions, centres = np.empty((frames, len(ids), 6)), np.empty((frames, 1, 3))
        for frame in range(frames):
            data.qpos[:], data.qvel[:] = qpos[frame], qvel[frame]
            mujoco.mj_kinematics(self.model, data)
            mujoco.mj_comPos(self.model, data)
            mujoco.mj_comVel(self.model, data)
            places[frame], turns[frame], motions[frame] = data.xpos[ids], data.xquat[ids], data.cvel[ids]
            centres[frame, 0] = data.subtree_com[ids[0]]
        spins = motions[..., :3]
        return places, turns, motions[..., 3:] + np.cross(spins, places - centres), spins

    @property
    def _root_joint(self) -> int:
        return int(self.model.body_jntadr[self._body_ids[0]])

    def breadth_first(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Indices of bodies and of joints in the order of their distance from the root, as Isaac Lab sorts them."""
        depth = {-1: -1}
        for body, parent in enumerate(self.parents):
            depth[body] = depth[parent] + 1
        bodies = tuple(sorted(range(len(self.bodies)), key=lambda body: depth[body]))
        owner = [self._body_ids.index(int(self.model.joint(name).bodyid[0])) for name in self.joints]
        joints = tuple(sorted(range(len(self.joints)), key=lambda joint: bodies.index(owner[joint])))
        return bodies, joints


def load_skeleton(path: Path, joints: tuple[str, ...] | None = None) -> Skeleton:
    """Read a MuJoCo model of one robot with a free root.

    Args:
        path: MJCF, or a URDF that MuJoCo reads.
        joints: the hinges that it must have, in this order; None takes it as it is.

    Raises:
        UserError: MuJoCo is missing or refuses the file, or the robot in it is another one.
    """
    mujoco = load_extra("mujoco", "mjlab")
    require(path.is_file(), "model", str(path), "give a MuJoCo model, an XML file")
    try:
        model = mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError("model", str(path), f"MuJoCo refuses it: {reason}") from error
    free = np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
    require(len(free) == 1, "model", str(path), f"give one robot with a free root; this has {len(free)} free joints")
    root = int(model.jnt_bodyid[free[0]])
    ids = tuple(body for body in range(model.nbody) if int(model.body_rootid[body]) == root)
    inside = [j for j in range(model.njnt) if j != free[0] and int(model.jnt_bodyid[j]) in ids]
    hinges = all(model.jnt_type[j] == mujoco.mjtJoint.mjJNT_HINGE for j in inside)
    require(bool(inside) and hinges, "model", str(path), "give a robot whose joints are all hinges")
    names = tuple(model.joint(j).name for j in inside)
    if joints is not None and names != joints:
        odd = next((pair for pair in zip(names, joints, strict=False) if pair[0] != pair[1]), None)
        detail = f"{odd[0]!r} stands where {odd[1]!r} should" if odd else f"it has {len(names)} of them"
        mend = f"give the G1 with its {len(joints)} joints in Unitree's order ({detail})"
        raise UserError("model", str(path), mend)
    limited = model.jnt_limited[inside].astype(bool)
    return Skeleton(
        model=model,
        joints=names,
        bodies=tuple(model.body(body).name for body in ids),
        parents=tuple(-1 if body == root else ids.index(int(model.body_parentid[body])) for body in ids),
        lower=np.where(limited, model.jnt_range[inside, 0], -np.inf),
        upper=np.where(limited, model.jnt_range[inside, 1], np.inf),
        _joint_places=(int(model.jnt_qposadr[inside[0]]), int(model.jnt_dofadr[inside[0]])),
        _body_ids=ids,
    )
