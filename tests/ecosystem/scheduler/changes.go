package main

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// scale sets every autoscaled workload to its least or most pods.
func (it *cluster) scale(when string, replicas func(*workload) int) {
	for _, workload := range it.workloads {
		workload.replicas = replicas(workload)
	}
	it.settle(when)
}

func least(of *workload) int { return of.least }
func most(of *workload) int  { return of.most }

// roll replaces all pods of all workloads, one workload after the other.
func (it *cluster) roll(when string) {
	for _, workload := range it.workloads {
		workload.revision++
		if workload.stateful {
			it.rollInOrder(workload, when)
		} else {
			it.rollWithSurge(workload, when)
		}
	}
}

// rollInOrder takes the highest ordinal first, and waits for its successor.
func (it *cluster) rollInOrder(workload *workload, when string) {
	for ordinal := workload.replicas - 1; ordinal >= 0; ordinal-- {
		name := fmt.Sprintf("%s-%d", workload.name, ordinal)
		for _, each := range it.of(workload) {
			if each.object.Name == name {
				it.remove(each)
			}
		}
		it.settle(when)
		for _, each := range it.of(workload) {
			if each.object.Name == name && !each.placed() {
				it.waiting = append(it.waiting, fmt.Sprintf("%s: the roll-out of %s waits for %s", when, workload.name, name))
				return
			}
		}
	}
}

func (it *cluster) rollWithSurge(workload *workload, when string) {
	for {
		var old, fresh []*pod
		for _, each := range it.of(workload) {
			if each.revision == workload.revision {
				fresh = append(fresh, each)
			} else {
				old = append(old, each)
			}
		}
		moved := false
		if len(fresh) < workload.replicas && len(old)+len(fresh) < workload.replicas+workload.surge {
			it.create(workload, fmt.Sprintf("%s-x%d", workload.name, it.made))
			moved = true
		}
		it.schedule(when)
		for len(old) > 0 {
			next := it.leaving(old)
			if next.placed() && it.ready(workload)-1 < workload.replicas-workload.unavailable {
				break
			}
			it.remove(next)
			old = slices.DeleteFunc(old, func(each *pod) bool { return each == next })
			moved = true
		}
		if !moved {
			if len(old) > 0 {
				it.waiting = append(it.waiting, fmt.Sprintf("%s: the roll-out of %s waits with %d old pods", when, workload.name, len(old)))
			}
			return
		}
	}
}

// evictable says whether the workload's budget lets a pod go now.
func (it *cluster) evictable(workload *workload) bool {
	return workload.budget == nil || it.ready(workload) > workload.replicas-*workload.budget
}

// drain cordons machines and evicts their pods as budgets allow, until they are empty or nothing moves any more; then it returns what is
// left.
func (it *cluster) drain(machines ...string) (left []string) {
	for _, machine := range machines {
		it.cordon(machine)
	}
	when := "while " + strings.Join(machines, " and ") + " is drained"
	for moved := true; moved; {
		moved, left = false, nil
		for _, machine := range machines {
			for _, each := range it.on(machine) {
				if it.evictable(each.workload) {
					it.remove(each)
					it.settle(when)
					moved = true
				} else {
					left = append(left, each.workload.name)
				}
			}
		}
	}
	return left
}

// emptied drains machines, and notes whom it would wait for.
func (it *cluster) emptied(machines ...string) {
	for _, name := range it.drain(machines...) {
		it.waiting = append(it.waiting, fmt.Sprintf("the drain of %s waits for the budget of %s", strings.Join(machines, " and "), name))
	}
}

// lose lets machines fall silent for longer than pods tolerate it: pods of Deployments are replaced, those of a StatefulSet are not.
func (it *cluster) lose(machines ...string) {
	for _, machine := range machines {
		it.change(machine, func(machine *v1.Node) {
			for _, effect := range []v1.TaintEffect{v1.TaintEffectNoSchedule, v1.TaintEffectNoExecute} {
				machine.Spec.Taints = append(machine.Spec.Taints, v1.Taint{Key: v1.TaintNodeNotReady, Effect: effect})
			}
		})
	}
	for _, machine := range machines {
		for _, each := range it.on(machine) {
			if !each.workload.stateful {
				it.remove(each)
			}
		}
	}
	it.settle("while " + strings.Join(machines, " and ") + " is lost")
}
