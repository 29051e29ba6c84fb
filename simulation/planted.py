"""Bugs to be planted in the planners, one at a time: what is changed, and which rule that breaks.

`old` must stand exactly once in the file, so that a planner that moves on makes its bugs be looked at again.
"""

from dataclasses import dataclass

MOVES = "rollouts/moves.py"
PLAN = "rollouts/plan.py"
CAUSES = "rollouts/causes.py"
STEADY = "rollouts/steady.py"
GATE = "rollouts/gate.py"
MODEL = "rollouts/model.py"
REPLICA = "replicas/plan.py"
RECONCILER = "rollouts/reconciler.py"
STORE = "rollouts/store.py"
SERVICE = "rollouts/service.py"
WORLD_CHANGER = "replicas/reconciler.py"
ROUTES = "replicas/routes.py"
BALANCE = "gateway/balance.py"


@dataclass(frozen=True, slots=True)
class Planted:
    """`file` is below src/weighbridge; `breaks` is a rule of reliability A or B, and how."""

    name: str
    file: str
    old: str
    new: str
    breaks: str


BUGS = (
    Planted(
        "floor-off-by-one", MOVES,
        "if available - loss >= aim.shape.floor:",
        "if available - loss >= aim.shape.floor - 1:",
        "R2: one replica below the floor",
    ),
    Planted(
        "floor-ignores-unavailable", MOVES,
        "return max(0, self.replicas - self.max_unavailable)",
        "return self.replicas",
        "progress: max_unavailable is never used, so without surge nothing moves",
    ),
    Planted(
        "floor-without-replicas", MOVES,
        "return max(0, self.replicas - self.max_unavailable)",
        "return 0",
        "R2: everything is drained at once",
    ),
    Planted(
        "slots-one-more", MOVES,
        "return self.replicas + self.max_surge",
        "return self.replicas + self.max_surge + 1",
        "R3: more replicas than slots",
    ),
    Planted(
        "draining-holds-no-slot", MOVES,
        "room = shape.slots - sum(not r.state.final for r in replicas)",
        "room = shape.slots - len(wanted)",
        "R3: draining replicas still hold their accelerators",
    ),
    Planted(
        "drain-without-counting", MOVES,
        "            available -= loss\n",
        "",
        "R2: several are drained in one step although one may go",
    ),
    Planted(
        "unready-count-as-available", MOVES,
        "if replica.state is not ReplicaState.READY or replica.ready_at is None:",
        "if replica.ready_at is None:",
        "R2: a draining replica counts as available",
    ),
    Planted(
        "available-before-routed", MOVES,
        "if replica.routed_at is None or replica.probe_failures > 0:",
        "if replica.probe_failures > 0:",
        "G7: the old one goes before the gateways know the new one",
    ),
    Planted(
        "doubtful-is-available", MOVES,
        "if replica.routed_at is None or replica.probe_failures > 0:",
        "if replica.routed_at is None:",
        "R14: a replica that fails its probes counts as available",
    ),
    Planted(
        "no-min-ready", MOVES,
        "return max((replica.ready_at, *replica.flips)) + timedelta(seconds=limits.min_ready_s)",
        "return replica.ready_at",
        "R10: available at once",
    ),
    Planted(
        "old-failures-forgotten", MOVES,
        "return [r for r in replicas if r.state in (ReplicaState.FAILED, ReplicaState.LOST)]",
        "return [r for r in replicas if r.state is ReplicaState.LOST]",
        "R13: failures are on nobody's account",
    ),
    Planted(
        "no-back-off", MOVES,
        "if at is None or now >= at:\n                actions += [StartReplica(deployment.id)] * count",
        "if at is None or True:\n                actions += [StartReplica(deployment.id)] * count",
        "B3: a crash loop without a pause",
    ),
    Planted(
        "counts-every-failure-again", MOVES,
        "return tuple(sorted(r.id for r in recent_failures(replicas) if not r.failure_counted))",
        "return ()",
        "R13: the same failure counts in every step",
    ),
    Planted(
        "worst-first", MOVES,
        "mine.sort(key=lambda r: _worth(r, now, limits), reverse=True)",
        "mine.sort(key=lambda r: _worth(r, now, limits))",
        "R2: what serves is let go, what does not is kept",
    ),
    Planted(
        "complete-with-others-left", MOVES,
        "        and len(others) == len(removals)\n",
        "",
        "R10: done while the old version still serves",
    ),
    Planted(
        "unproven-version-replaces-losses", MOVES,
        "spare = None if aim.proven or available or same else aim.base",
        "spare = None",
        "node loss: a failure pushes an unproven version",
    ),
    Planted(
        "wanted-too-many", MOVES,
        "need = 0 if goal is None else aim.wanted - len(kept)",
        "need = 0 if goal is None else aim.wanted - len(kept) + 1",
        "R3 and R10: one replica more than asked for",
    ),
    Planted(
        "stop-instead-of-drain", MOVES,
        "removals.append(DrainReplica(replica.id))",
        "removals.append(StopReplica(replica.id))",
        "G5: streams are cut",
    ),
    Planted(
        "versions-alone-are-compared", MOVES,
        "return (replica.version_id, replica.settings_digest) == (\n        deployment.version_id,\n        deployment.settings_digest,\n    )",
        "return replica.deployment_id == deployment.id",
        "R17: the same version is replaced by itself",
    ),
    Planted(
        "done-without-bake", PLAN,
        "if baked_at is not None and now < baked_at:",
        "if False and baked_at is not None and now < baked_at:",
        "B3.6: done before it was watched",
    ),
    Planted(
        "failures-forgotten", PLAN,
        "failures=seen.deployment.failures + new_failures(seen.replicas, seen.deployment),",
        "failures=new_failures(seen.replicas, seen.deployment),",
        "R13: the budget is never used up",
    ),
    Planted(
        "progress-without-high-water-mark", PLAN,
        "        updated_max=max(updated, deployment.updated_max),\n        progress_at=now if progress else deployment.progress_at,\n    )\n    why = _gate",
        "        updated_max=updated,\n        progress_at=now if progress else deployment.progress_at,\n    )\n    why = _gate",
        "R14: flapping makes progress for ever",
    ),
    Planted(
        "progress-every-time", PLAN,
        "        updated_max=max(updated, deployment.updated_max),\n        progress_at=now if progress else deployment.progress_at,\n    )\n    why = _gate",
        "        updated_max=max(updated, deployment.updated_max),\n        progress_at=now,\n    )\n    why = _gate",
        "R9: stuck without an end",
    ),
    Planted(
        "cancel-is-ignored", PLAN,
        '    if deployment.cancel_requested:\n        return _turn_back(seen, deployment, "cancelled by request", now)',
        "",
        "B3.7: a cancelled rollout goes on",
    ),
    Planted(
        "rollback-without-base", PLAN,
        "        if seen.base is None or untouched(seen.replicas, deployment):\n            return _end(",
        "        if False:\n            return _end(",
        "B3.8: goes back to nothing",
    ),
    Planted(
        "rollback-ends-at-once", PLAN,
        "    if moves.complete:\n        return _restored(seen, deployment, moves, now)",
        "    if True:\n        return _restored(seen, deployment, moves, now)",
        "R10: rolled back, but the target still serves",
    ),
    Planted(
        "rollback-never-gives-up", PLAN,
        "    if stalled or deployment.restore_failures >= limits.failures_max(deployment.replicas):",
        "    if False:",
        "R9: a rollback without an end",
    ),
    Planted(
        "rollback-to-the-target", PLAN,
        "moves = converge(Aim(base, None, shape, proven=True), seen.replicas, now, limits)",
        "moves = converge(Aim(deployment, None, shape, proven=True), seen.replicas, now, limits)",
        "R9: goes back to what failed",
    ),
    Planted(
        "shape-of-today", PLAN,
        "return Shape(deployment.replicas, deployment.max_unavailable, deployment.max_surge)",
        "return Shape(deployment.replicas, deployment.max_unavailable + 1, deployment.max_surge)",
        "R18 and R2: other limits than those of the start",
    ),
    Planted(
        "cancelled-as-rolled-back", PLAN,
        "status=RolloutStatus.CANCELLED if cancelled else RolloutStatus.ROLLED_BACK,",
        "status=RolloutStatus.ROLLED_BACK,",
        "B3.10: a cancelled rollout says that it failed",
    ),
    Planted(
        "updated-left-after-rollback", PLAN,
        "        updated_replicas=0,\n        finished_at=now,",
        "        finished_at=now,\n        updated_replicas=1,",
        "R10: updated replicas after a rollback",
    ),
    Planted(
        "base-unpinned", PLAN,
        "base_deployment_id=None if seen.base is None else seen.base.id,",
        "base_deployment_id=None,",
        "R12: nothing to go back to",
    ),
    Planted(
        "finished-without-time", PLAN,
        "    ended = replace(deployment, status=status, reason=words, error_message=words, finished_at=now)",
        "    ended = replace(deployment, status=RolloutStatus.DONE, reason=words, finished_at=now)",
        "R11 and R12: an error is called done",
    ),
    Planted(
        "lost-counts-against-the-version", CAUSES,
        "        r.state is ReplicaState.FAILED and not r.failure_counted and r.deployment_id == account.id\n",
        "        r.state.final and not r.failure_counted and r.deployment_id == account.id\n",
        "R13: a lost node speaks against the version",
    ),
    Planted(
        "crash-in-the-bake-is-fine", CAUSES,
        "if base is not None and _crashed_when_complete(replicas, deployment):",
        "if False:",
        "B3.7: the bake gate does not see a crash",
    ),
    Planted(
        "no-total-limit", CAUSES,
        "        return f\"not finished within {limits.total_s:g} s\"\n",
        "        pass\n",
        "R9: no limit in total",
    ),
    Planted(
        "waits-for-a-place-for-ever", CAUSES,
        "if any(due(r.created_at, limits.capacity_s, now) for r in waiting):",
        "if False:",
        "R9: no limit on the wait for a place",
    ),
    Planted(
        "no-progress-limit", CAUSES,
        "if not waiting and due(deployment.progress_at, limits.progress_s, now):",
        "if False:",
        "R9: no limit on progress",
    ),
    Planted(
        "budget-never-used-up", CAUSES,
        "if deployment.failures >= limits.failures_max(deployment.replicas):",
        "if False:",
        "R13: a bad version is tried without an end",
    ),
    Planted(
        "steady-restarts-at-once", STEADY,
        "    if at is not None and now < at:\n",
        "    if False and at is not None and now < at:\n",
        "upkeep: a crash loop without a pause",
    ),
    Planted(
        "steady-never-shrinks", STEADY,
        "leaving = strays + rest[size:]",
        "leaving = strays",
        "size: a smaller endpoint keeps its replicas",
    ),
    Planted(
        "steady-drops-other-versions", STEADY,
        "if r.state is not ReplicaState.READY and (base is None or not runs(r, base))",
        "if base is None or not runs(r, base)",
        "R5: what is ready serves on whatever its rollout's end",
    ),
    Planted(
        "steady-cuts-streams", STEADY,
        "DrainReplica(r.id) if r.state is ReplicaState.READY else StopReplica(r.id) for r in leaving",
        "StopReplica(r.id) for r in leaving",
        "G5: streams are cut",
    ),
    Planted(
        "steady-overfills", STEADY,
        "missing = min(missing, size + surge - sum(not r.state.final for r in replicas))",
        "pass",
        "R3: replacements before the dead have given their slots back",
    ),
    Planted(
        "ready-after-one-pass", REPLICA,
        "passes = min(replica.probe_passes + 1, limits.probe_passes_min)",
        "passes = limits.probe_passes_min",
        "R15: one pass is enough",
    ),
    Planted(
        "ready-without-a-token", REPLICA,
        "if probe.generated or replica.probe_passes > 0:",
        "if True:",
        "R15: ready without one real token",
    ),
    Planted(
        "passes-need-not-be-in-a-row", REPLICA,
        "replica = _say(replace(replica, probe_passes=0), probe.detail)",
        "replica = _say(replica, probe.detail)",
        "R15: passes with failures between them",
    ),
    Planted(
        "stranger-is-welcome", REPLICA,
        "    if probe is not None and probe.outcome is ProbeOutcome.WRONG_IDENTITY:\n        return _give_up(replica, probe.detail, now)\n    if probe is not None and probe.outcome is ProbeOutcome.READY:\n        if probe.generated",
        "    if probe is not None and probe.outcome is not ProbeOutcome.UNHEALTHY:\n        if probe.generated",
        "R15: a wrong digest is let in",
    ),
    Planted(
        "leaves-after-one-failure", REPLICA,
        "if failures >= limits.probe_failures_max and believed:",
        "if failures >= 1 and believed:",
        "R15: one failed probe and it goes",
    ),
    Planted(
        "no-mass-failure-guard", REPLICA,
        "believed = probe.generated or not seen.guarded",
        "believed = True",
        "R16: all replicas are given up when the prober fails",
    ),
    Planted(
        "drain-does-not-wait-for-the-gateways", REPLICA,
        "    if not _acked(replica.unrouted_generation, seen) and not waited_long:\n        return Step(replica)",
        "",
        "G5: stopped while gateways still route to it",
    ),
    Planted(
        "drain-does-not-wait-for-streams", REPLICA,
        "    if seen.in_flight == 0:\n        ended",
        "    if True:\n        ended",
        "G5: streams are cut",
    ),
    Planted(
        "drain-without-a-deadline", REPLICA,
        "    if now >= deadline:\n        words = f\"{seen.in_flight} requests",
        "    if False:\n        words = f\"{seen.in_flight} requests",
        "G6: a drain that never ends",
    ),
    Planted(
        "deadline-begins-anew", REPLICA,
        "deadline = replica.drain_deadline or now + timedelta(seconds=limits.drain_s)",
        "deadline = now + timedelta(seconds=limits.drain_s)",
        "G6: a drain that never ends",
    ),
    Planted(
        "slot-freed-before-death", REPLICA,
        "    if process is None or process.state is RuntimeState.EXITED:\n        failing = ",
        "    if True:\n        failing = ",
        "R19: its slot is given away while it lives",
    ),
    Planted(
        "away-means-gone", REPLICA,
        "    if seen.runtime_away:\n        return None\n    if process is None:\n        return _lost",
        "    if process is None:\n        return _lost",
        "D4: an agent that is away makes every replica lost",
    ),
    Planted(
        "other-process-is-fine", REPLICA,
        "        case _ if replica.incarnation not in (None, process.incarnation):",
        "        case _ if False:",
        "D4: another process under the same name is trusted",
    ),
    Planted(
        "start-without-a-limit", REPLICA,
        "    if now >= replica.state_since + timedelta(seconds=seen.start_s):",
        "    if False:",
        "B2: a start that never ends",
    ),
    Planted(
        "acked-by-nobody", REPLICA,
        "return seen.routes_acked is None or seen.routes_acked >= generation",
        "return True",
        "G5: acks are not waited for",
    ),
    Planted(
        "routed-before-acked", REPLICA,
        "    if replica.routed_at is None and _acked(replica.routed_generation, seen):",
        "    if replica.routed_at is None:",
        "G7: available before any gateway routes to it",
    ),
    Planted(
        "stop-is-sent-once", REPLICA,
        "command = None if process.state is RuntimeState.STOPPING and not overdue else Command.STOP",
        "command = None",
        "B2: a stop that got lost is never sent again",
    ),
    Planted(
        "base-changes-at-rollback", RECONCILER,
        "if turned and decision.after.status is RolloutStatus.DONE:",
        "if turned and decision.after.status.final:",
        "R12: the base becomes what failed",
    ),
    Planted(
        "unfenced", RECONCILER,
        "            async with self._database.begin() as tx:\n                await lease.require(tx, self._lease_of())\n                step",
        "            async with self._database.begin() as tx:\n                step",
        "D5: a controller that lost its lease still writes",
    ),
    Planted(
        "newest-first", STORE,
        "deployments.c.status.in_(OPEN))\n        .order_by(deployments.c.sequence)",
        "deployments.c.status.in_(OPEN))\n        .order_by(deployments.c.sequence.desc())",
        "R1: not in the order of submission",
    ),
    Planted(
        "unguarded-save", STORE,
        "            deployments.c.revision == before.revision,\n            deployments.c.status == before.status,\n",
        "",
        "B0.3: a write over somebody else's",
    ),
)  # fmt: skip
