// Package web is the console: what a browser shows at /. Its sources are TypeScript; what they
// are built to lies beside them in dist, so that building keyledger needs no Node.
package web

import (
	"embed"
	"io/fs"
)

//go:embed dist
var dist embed.FS

// Files are the built files: index.html, and what it loads under assets.
func Files() fs.FS {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // dist is embedded
	}
	return files
}
