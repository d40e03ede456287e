// Copyright: openrtc.livekit contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// What a cluster is usually given beside Kubernetes itself: metrics-server (CPU figures for the autoscaler and `kubectl top`) and
// CoreDNS with the plugins its own manifest uses. A module of its own, because both want newer libraries than the control plane has.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	metrics "sigs.k8s.io/metrics-server/cmd/metrics-server/app"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case "coredns":
		// The order in which a query passes through the plugins.
		dnsserver.Directives = []string{"ready", "errors", "cache", "kubernetes", "forward"}
		coremain.Run()
	case "metrics-server":
		os.Exit(cli.Run(metrics.NewMetricsServerCommand(genericapiserver.SetupSignalHandler())))
	default:
		fmt.Fprintln(os.Stderr, "call it by a symlink named one of: coredns metrics-server")
		os.Exit(2)
	}
}
