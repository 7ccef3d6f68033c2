"""Builds Traefik from its module: there is no package of it. Left out is what the module does not bring, or what would take most of
the time and has no part in how requests are routed: its pages, the providers of certificates, middlewares that ask for passwords.
"""

import shutil

from fetching import BIN, TOOLS, go, module, run

TRAEFIK = ("github.com/traefik/traefik/v3", "v3.7.13")
LEGO = ("github.com/go-acme/lego/v5", "v5.4.1")

# By path in Traefik's source.
STUBS = {
    # Embedded, and built by npm.
    "webui/static/index.html": "",
    # A module inside the module, which archives of modules leave out.
    "pkg/config/dynamic/ext/go.mod": "module github.com/traefik/traefik/dynamic/ext\n\ngo 1.22\n",
    "pkg/config/dynamic/ext/ext.go": """package ext

type HTTP struct{}

func (in *HTTP) DeepCopyInto(out *HTTP) { *out = *in }

type Router struct{}

func (in *Router) DeepCopyInto(out *Router) { *out = *in }
""",
    # Of 200 providers.
    "lego/providers/dns/zz_gen_dns_providers.go": """package dns

import (
	"errors"

	"github.com/go-acme/lego/v5/challenge"
)

func NewDNSChallengeProviderByName(name string) (challenge.Provider, error) {
	return nil, errors.New("built without providers: " + name)
}
""",
    # Of a fork of a library, which the module proxy does not serve.
    "pkg/middlewares/auth/digest_auth.go": "package auth\n",
    "pkg/middlewares/auth/basic_auth.go": """package auth

import (
	"context"
	"errors"
	"net/http"

	"github.com/traefik/traefik/v3/pkg/config/dynamic"
)

var errWithout = errors.New("built without passwords")

func NewBasic(context.Context, http.Handler, dynamic.BasicAuth, string) (http.Handler, error) {
	return nil, errWithout
}

func NewDigest(context.Context, http.Handler, dynamic.DigestAuth, string) (http.Handler, error) {
	return nil, errWithout
}
""",
}


def traefik():
    target, stamp = BIN / "traefik", BIN / f".traefik-{TRAEFIK[1]}"
    if target.exists() and stamp.exists():
        return
    folder = TOOLS / "build-traefik"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # Modules are read-only.
    run(["cp", "-R", f"{module(*TRAEFIK)}/.", folder])
    run(["cp", "-R", module(*LEGO), folder / "lego"])
    run(["chmod", "-R", "u+w", folder])
    for name, text in STUBS.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    fork = "github.com/abbot/go-http-auth"
    run([go(), "mod", "edit", f"-replace={LEGO[0]}=./lego", f"-dropreplace={fork}", f"-droprequire={fork}"], folder)
    run([go(), "build", "-mod=mod", "-buildvcs=false", "-ldflags=-s -w", "-o", target, "./cmd/traefik"], folder, CGO_ENABLED="0")
    shutil.rmtree(folder)
    stamp.touch()
