package main

import (
	"fmt"
	"slices"
	"sort"
	"strconv"

	v1 "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// cluster is what controllers make of workloads: pods come and go as those of Deployments, StatefulSets and evictions do. A pod that has
// a machine counts as ready.
type cluster struct {
	scheduler *placer
	machines  []*v1.Node
	workloads []*workload
	pods      []*pod
	made      int
	pending   []Pending
	waiting   []string
}

type pod struct {
	object   *v1.Pod
	workload *workload
	revision int
}

func (it *pod) placed() bool { return it.object.Spec.NodeName != "" }

func (it *cluster) join(machine *v1.Node) {
	it.machines = append(it.machines, machine)
	it.scheduler.scheduler.Cache.AddNode(klog.Background(), machine)
}

func (it *cluster) leave(machine *v1.Node) {
	it.machines = slices.DeleteFunc(it.machines, func(each *v1.Node) bool { return each == machine })
	if err := it.scheduler.scheduler.Cache.RemoveNode(klog.Background(), machine); err != nil {
		panic(err)
	}
}

// change replaces a machine's object by a changed copy.
func (it *cluster) change(name string, change func(*v1.Node)) {
	for index, before := range it.machines {
		if before.Name == name {
			after := before.DeepCopy()
			change(after)
			it.machines[index] = after
			it.scheduler.scheduler.Cache.UpdateNode(klog.Background(), before, after)
		}
	}
}

// cordon does what `kubectl cordon` and the controller of machines do after it: the taint is what topology spread looks at.
func (it *cluster) cordon(name string) { it.change(name, cordoned) }

func (it *cluster) uncordon(name string) {
	it.change(name, func(machine *v1.Node) {
		machine.Spec.Unschedulable = false
		machine.Spec.Taints = slices.DeleteFunc(machine.Spec.Taints, func(taint v1.Taint) bool {
			return taint.Key == v1.TaintNodeUnschedulable || taint.Key == v1.TaintNodeNotReady
		})
	})
}

func cordoned(machine *v1.Node) {
	machine.Spec.Unschedulable = true
	machine.Spec.Taints = append(machine.Spec.Taints, v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule})
}

// open lists machines that take pods without tolerations.
func (it *cluster) open() []string {
	var names []string
	for _, machine := range it.machines {
		if isOpen(machine) {
			names = append(names, machine.Name)
		}
	}
	return names
}

func isOpen(machine *v1.Node) bool {
	return !machine.Spec.Unschedulable && !slices.ContainsFunc(machine.Spec.Taints, func(taint v1.Taint) bool {
		return taint.Effect != v1.TaintEffectPreferNoSchedule
	})
}

func (it *cluster) of(workload *workload) []*pod {
	var found []*pod
	for _, each := range it.pods {
		if each.workload == workload {
			found = append(found, each)
		}
	}
	return found
}

func (it *cluster) on(machine string) []*pod {
	var found []*pod
	for _, each := range it.pods {
		if each.object.Spec.NodeName == machine {
			found = append(found, each)
		}
	}
	return found
}

func (it *cluster) ready(workload *workload) int {
	ready := 0
	for _, each := range it.of(workload) {
		if each.placed() {
			ready++
		}
	}
	return ready
}

func (it *cluster) placed() map[string]map[string]int {
	placed := map[string]map[string]int{}
	for _, each := range it.workloads {
		placed[each.name] = map[string]int{}
	}
	for _, each := range it.pods {
		if each.placed() {
			placed[each.workload.name][each.object.Spec.NodeName]++
		}
	}
	return placed
}

// create makes a pod as its controller does, without a machine yet.
func (it *cluster) create(workload *workload, name string) {
	it.made++
	object := &v1.Pod{ObjectMeta: *workload.template.ObjectMeta.DeepCopy(), Spec: *workload.template.Spec.DeepCopy()}
	object.Namespace = "telecast"
	object.Name = name
	object.UID = types.UID(strconv.Itoa(it.made))
	object.Spec.SchedulerName = v1.DefaultSchedulerName
	object.Labels["pod-template-hash"] = strconv.Itoa(workload.revision)
	merge(&object.Spec, object.Labels)
	it.pods = append(it.pods, &pod{object: object, workload: workload, revision: workload.revision})
}

// merge adds the terms of matchLabelKeys to their selectors, as the API server does.
func merge(spec *v1.PodSpec, labels map[string]string) {
	add := func(selector *meta.LabelSelector, keys []string) {
		for _, key := range keys {
			selector.MatchExpressions = append(selector.MatchExpressions, meta.LabelSelectorRequirement{
				Key: key, Operator: meta.LabelSelectorOpIn, Values: []string{labels[key]},
			})
		}
	}
	for _, each := range spec.TopologySpreadConstraints {
		add(each.LabelSelector, each.MatchLabelKeys)
	}
	if spec.Affinity != nil && spec.Affinity.PodAntiAffinity != nil {
		for _, each := range spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			add(each.LabelSelector, each.MatchLabelKeys)
		}
		for _, each := range spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			add(each.PodAffinityTerm.LabelSelector, each.PodAffinityTerm.MatchLabelKeys)
		}
	}
}

func (it *cluster) remove(gone *pod) {
	it.pods = slices.DeleteFunc(it.pods, func(each *pod) bool { return each == gone })
	if gone.placed() {
		if err := it.scheduler.scheduler.Cache.RemovePod(klog.Background(), gone.object); err != nil {
			panic(err)
		}
	}
}

// schedule places what has no machine, and notes what finds none.
func (it *cluster) schedule(when string) {
	for _, each := range it.pods {
		if each.placed() {
			continue
		}
		plugins, message, err := it.scheduler.place(each.object)
		if err != nil {
			panic(err)
		}
		if !each.placed() {
			sort.Strings(plugins)
			it.pending = append(it.pending, Pending{Workload: each.workload.name, When: when, Plugins: plugins, Message: message})
		}
	}
}

// settle lets controllers make and take away pods until there are as many as there should be, and places them.
func (it *cluster) settle(when string) {
	for _, workload := range it.workloads {
		for len(it.of(workload)) > workload.replicas {
			it.remove(it.leaving(it.of(workload)))
		}
		for ordinal := 0; len(it.of(workload)) < workload.replicas; ordinal++ {
			name := fmt.Sprintf("%s-%d", workload.name, ordinal)
			if !workload.stateful {
				name = fmt.Sprintf("%s-x%d", workload.name, it.made)
			} else if slices.ContainsFunc(it.of(workload), func(each *pod) bool { return each.object.Name == name }) {
				continue
			}
			it.create(workload, name)
		}
	}
	it.schedule(when)
}

// leaving is the pod that a ReplicaSet takes away first: one without a machine, else one beside the most of its kind.
func (it *cluster) leaving(pods []*pod) *pod {
	beside := map[string]int{}
	for _, each := range pods {
		beside[each.object.Spec.NodeName]++
	}
	first := pods[len(pods)-1]
	for _, each := range pods {
		if !each.placed() {
			return each
		}
		if beside[each.object.Spec.NodeName] > beside[first.object.Spec.NodeName] {
			first = each
		}
	}
	return first
}
