package main

import (
	"encoding/json"
	"fmt"

	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	v1 "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A workload is a Deployment or a StatefulSet with what bounds it: its autoscaler, and its disruption budget.
type workload struct {
	name     string
	stateful bool
	template v1.PodTemplateSpec
	replicas int
	// Bounds of its autoscaler; both are `replicas` without one.
	least, most int
	// Of a roll-out: pods more than `replicas`, and ready ones less.
	surge, unavailable int
	// Pods that may be evicted at a time; none is no budget.
	budget *int
	// Counts roll-outs.
	revision int
}

func count(replicas *int32) int {
	if replicas == nil {
		return 1
	}
	return int(*replicas)
}

// read finds the workloads among rendered objects.
func read(objects []json.RawMessage) ([]workload, error) {
	var found []workload
	for _, object := range objects {
		var kind meta.TypeMeta
		if err := json.Unmarshal(object, &kind); err != nil {
			return nil, err
		}
		switch kind.Kind {
		case "Deployment":
			var it apps.Deployment
			if err := json.Unmarshal(object, &it); err != nil {
				return nil, err
			}
			replicas := count(it.Spec.Replicas)
			found = append(found, workload{
				name: it.Name, template: it.Spec.Template, replicas: replicas, least: replicas, most: replicas,
				surge:       scaled(it.Spec.Strategy.RollingUpdate.MaxSurge, replicas, true),
				unavailable: scaled(it.Spec.Strategy.RollingUpdate.MaxUnavailable, replicas, false),
			})
		case "StatefulSet":
			var it apps.StatefulSet
			if err := json.Unmarshal(object, &it); err != nil {
				return nil, err
			}
			replicas := count(it.Spec.Replicas)
			found = append(found, workload{
				name: it.Name, stateful: true, template: it.Spec.Template, replicas: replicas, least: replicas, most: replicas,
			})
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no Deployment and no StatefulSet among %d objects", len(objects))
	}
	for _, object := range objects {
		if err := bound(found, object); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// scaled is a number of pods that may be written as a share.
func scaled(value *intstr.IntOrString, of int, up bool) int {
	number, err := intstr.GetScaledValueFromIntOrPercent(value, of, up)
	if err != nil {
		panic(err)
	}
	return number
}

// bound applies an autoscaler or a budget to the workloads that it is for.
func bound(workloads []workload, object json.RawMessage) error {
	var kind meta.TypeMeta
	if err := json.Unmarshal(object, &kind); err != nil {
		return err
	}
	switch kind.Kind {
	case "HorizontalPodAutoscaler":
		var it autoscaling.HorizontalPodAutoscaler
		if err := json.Unmarshal(object, &it); err != nil {
			return err
		}
		limit(workloads, it.Spec.ScaleTargetRef.Name, count(it.Spec.MinReplicas), int(it.Spec.MaxReplicas))
	case "ScaledObject":
		var it struct {
			Spec struct {
				ScaleTargetRef  struct{ Name string }
				MinReplicaCount int
				MaxReplicaCount int
			}
		}
		if err := json.Unmarshal(object, &it); err != nil {
			return err
		}
		limit(workloads, it.Spec.ScaleTargetRef.Name, it.Spec.MinReplicaCount, it.Spec.MaxReplicaCount)
	case "PodDisruptionBudget":
		var it policy.PodDisruptionBudget
		if err := json.Unmarshal(object, &it); err != nil {
			return err
		}
		selector, err := meta.LabelSelectorAsSelector(it.Spec.Selector)
		if err != nil {
			return err
		}
		for index := range workloads {
			if each := &workloads[index]; selector.Matches(labels.Set(each.template.Labels)) {
				if it.Spec.MaxUnavailable == nil {
					return fmt.Errorf("budget %s: only maxUnavailable is understood", it.Name)
				}
				unavailable := scaled(it.Spec.MaxUnavailable, each.most, true)
				each.budget = &unavailable
			}
		}
	}
	return nil
}

func limit(workloads []workload, name string, least, most int) {
	for index := range workloads {
		if each := &workloads[index]; each.name == name && !each.stateful {
			each.replicas, each.least, each.most = least, least, most
		}
	}
}
