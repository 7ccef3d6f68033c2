package main

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
)

// placer is kube-scheduler with its default profile; what an API server would tell it goes straight into its cache.
type placer struct {
	ctx       context.Context
	scheduler *scheduler.Scheduler
	snapshot  *cache.Snapshot
}

func newScheduler(ctx context.Context) (*placer, error) {
	client := fake.NewClientset()
	snapshot := cache.NewEmptySnapshot()
	it, err := scheduler.New(
		ctx, client, informers.NewSharedInformerFactory(client, 0), nil,
		func(string) events.EventRecorderLogger { return &events.FakeRecorder{} },
		scheduler.WithNodeInfoSnapshot(snapshot),
		// In one thread, so that machines of equal worth come in the same order each time.
		scheduler.WithParallelism(1),
	)
	if err != nil {
		return nil, err
	}
	return &placer{ctx: ctx, scheduler: it, snapshot: snapshot}, nil
}

// place chooses a machine, and puts the pod there; without one it says which plugins refuse.
func (it *placer) place(pod *v1.Pod) (plugins []string, message string, err error) {
	if err := it.scheduler.Cache.UpdateSnapshot(klog.Background(), it.snapshot); err != nil {
		return nil, "", err
	}
	info, err := framework.NewPodInfo(pod)
	if err != nil {
		return nil, "", err
	}
	profile := it.scheduler.Profiles[v1.DefaultSchedulerName]
	queued := &framework.QueuedPodInfo{PodInfo: info}
	result, err := it.scheduler.SchedulePod(it.ctx, profile, framework.NewCycleState(), queued)
	var unfit *framework.FitError
	switch {
	case errors.As(err, &unfit):
		return unfit.Diagnosis.UnschedulablePlugins.UnsortedList(), err.Error(), nil
	case errors.Is(err, scheduler.ErrNoNodesAvailable):
		return []string{}, err.Error(), nil
	case err != nil:
		return nil, "", fmt.Errorf("%s: %w", pod.Name, err)
	}
	pod.Spec.NodeName = result.SuggestedHost
	return nil, "", it.scheduler.Cache.AddPod(klog.Background(), pod)
}
