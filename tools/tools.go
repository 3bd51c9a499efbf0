// Package tools exists only so that the module of the development tools has a
// package: the tools themselves are named in go.mod.
package tools
