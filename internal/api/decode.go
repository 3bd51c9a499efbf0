package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"reflect"
	"sort"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
)

// binder reads JSON bodies for the generated handlers, strictly: valid UTF-8, no
// member twice, none unknown, nothing after the end.
type binder struct{}

// Bind reads the request's body into v. An empty body is io.EOF, which the
// generated code accepts where a body is optional.
func (binder) Bind(v any, c echo.Context) error {
	r := c.Request()
	body, err := readAll(r.Body)
	if err != nil {
		return fault.Wrap(err, fault.Malformed, "The body could not be read to its end.")
	}
	if len(body) == 0 {
		return fault.Wrap(io.EOF, fault.Malformed, "A JSON body is required.")
	}
	if !isJSON(r.Header.Get(echo.HeaderContentType)) {
		return fault.New(fault.Unsupported, "The body must be JSON: Content-Type: application/json.")
	}
	if len(body) > smallBody && crowded(body) {
		return fault.New(fault.Malformed, fmt.Sprintf("An object of the body has more than %d members.", maxMembers))
	}
	if string(bytes.TrimSpace(body)) == "null" {
		return fault.New(fault.Malformed, "The body must be a JSON object, not null.")
	}
	wrong, err := decode(body, v)
	if err != nil {
		return err
	}
	if wrong != nil {
		return fault.Fields(wrong...)
	}
	return nil
}

const (
	// maxMembers bounds the members of one object: more are nobody's usage or prices, and
	// unfolded they take many times the body's room.
	maxMembers = 10_000
	// smallBody is a size up to which members need no counting.
	smallBody = 32 << 10
)

// crowded tells whether an object anywhere in a body has too many members.
func crowded(body []byte) bool {
	d := jsontext.NewDecoder(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true))
	for {
		if _, err := d.ReadToken(); err != nil { // the end, or no JSON, which decode tells
			return false
		}
		if kind, n := d.StackIndex(d.StackDepth()); kind == jsontext.KindBeginObject && n > 2*maxMembers {
			return true
		}
	}
}

func isJSON(contentType string) bool {
	if contentType == echo.MIMEApplicationJSON { // as nearly all have it
		return true
	}
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && kind == echo.MIMEApplicationJSON
}

// decode reads JSON into v. Text that is no JSON is a Malformed fault; members
// that do not fit are named, all of them.
func decode(body []byte, v any) ([]field.Error, error) {
	err := json.Unmarshal(body, v, json.RejectUnknownMembers(true))
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		// What does not fit may stand before what is no JSON at all, which comes first.
		if invalid := json.Unmarshal(body, new(jsontext.Value)); invalid != nil {
			err = invalid
		}
	}
	var syntax *jsontext.SyntacticError
	switch {
	case err == nil:
		return nil, nil
	case errors.As(err, &semantic):
		return explain(body, v, semantic), nil
	case errors.As(err, &syntax):
		return nil, fault.Wrap(err, fault.Malformed, fmt.Sprintf("The body is not valid JSON, at byte %d: %s.", syntax.ByteOffset, syntaxMessage(syntax)))
	default:
		return nil, fault.Wrap(err, fault.Malformed, "The body is not valid JSON: it ends too early.")
	}
}

func syntaxMessage(err *jsontext.SyntacticError) string {
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return "a member stands twice"
	}
	if err.Err == nil {
		return "unexpected text"
	}
	return strings.TrimPrefix(err.Err.Error(), "jsontext: ")
}

// explain names every member of a body that does not fit v, by reading each of
// them alone, and leaves those that fit in v. It runs only after a first reading
// has failed.
func explain(body []byte, v any, first *json.SemanticError) []field.Error {
	var members map[string]jsontext.Value
	if reflect.TypeOf(v).Elem().Kind() != reflect.Struct || json.Unmarshal(body, &members) != nil {
		return []field.Error{describe(first)}
	}
	var wrong []field.Error
	for name, value := range members {
		alone, err := json.Marshal(map[string]jsontext.Value{name: value})
		if err != nil {
			continue // it was read a moment ago
		}
		var semantic *json.SemanticError
		if errors.As(json.Unmarshal(alone, reflect.New(reflect.TypeOf(v).Elem()).Interface(), json.RejectUnknownMembers(true)), &semantic) {
			wrong = append(wrong, describe(semantic))
			continue
		}
		_ = json.Unmarshal(alone, v) // it fits: keep it, for the rules on what could be read
	}
	sort.Slice(wrong, func(i, j int) bool { return wrong[i].Field < wrong[j].Field })
	if wrong == nil {
		return []field.Error{describe(first)}
	}
	return wrong
}

func describe(err *json.SemanticError) field.Error {
	f := field.Error{Field: fieldPath(err.JSONPointer), Message: "must be " + wanted(err.GoType)}
	if errors.Is(err, json.ErrUnknownName) {
		f.Message = "is not a known field"
	}
	if f.Field == "" {
		f.Field = "body"
	}
	return f
}

// fieldPath writes a JSON pointer as people do: events[3].usage.
func fieldPath(p jsontext.Pointer) string {
	var path strings.Builder
	for token := range p.Tokens() {
		switch {
		case token != "" && strings.Trim(token, "0123456789") == "":
			path.WriteString("[" + token + "]")
		case path.Len() > 0:
			path.WriteString("." + token)
		default:
			path.WriteString(token)
		}
	}
	return path.String()
}

func wanted(t reflect.Type) string {
	if t == nil {
		return "of another type"
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[time.Time](), reflect.TypeFor[wire.Time]():
		return "an RFC 3339 time like 2026-12-31T23:59:59Z"
	case reflect.TypeFor[uuid.UUID]():
		return "a UUID"
	case reflect.TypeFor[wire.USD]():
		return "a number"
	}
	switch t.Kind() { //nolint:exhaustive // what JSON can hold
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	default:
		return "a whole number in range"
	}
}
