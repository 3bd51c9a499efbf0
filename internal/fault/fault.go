// Package fault is the one error type that crosses package borders: a code of a
// closed set, a message fit for the caller, and a cause that stays inside.
//
// Below internal/api nobody knows HTTP: internal/api/errors.go alone turns a
// code into a status. A refusal that is part of normal work (a key that is not
// valid, a limit that is reached) is a value, not a fault.
package fault

import (
	"errors"

	"github.com/keyledger/keyledger/internal/field"
)

// Code says what kind of thing went wrong. The set is closed.
type Code string

// The codes.
const (
	Malformed       Code = "MALFORMED_REQUEST"      // the request cannot be read
	Invalid         Code = "VALIDATION_FAILED"      // readable, but a rule is broken
	Unauthenticated Code = "UNAUTHENTICATED"        // no valid token
	Forbidden       Code = "FORBIDDEN"              // the token's role does not suffice
	NotFound        Code = "NOT_FOUND"              // no such thing
	Conflict        Code = "CONFLICT"               // the thing is in another state or version
	TooLarge        Code = "BODY_TOO_LARGE"         // the body passes its limit
	TooSlow         Code = "BODY_TOO_SLOW"          // the body does not come in its time; try again
	Unsupported     Code = "UNSUPPORTED_MEDIA_TYPE" // the body is not JSON
	NotAllowed      Code = "METHOD_NOT_ALLOWED"     // the path knows no such method
	TooMany         Code = "TOO_MANY_ATTEMPTS"      // of something that is refused again and again
	Unavailable     Code = "UNAVAILABLE"            // the database is out of reach or busy; try again
	Internal        Code = "INTERNAL"               // anything else
)

// Error is a failure with a message that may be shown to the caller.
type Error struct {
	Code    Code
	Message string
	Fields  []field.Error
	cause   error
}

// New makes an error without a cause.
func New(code Code, message string) *Error {
	return &Error{Code: code, Message: message}
}

// Wrap makes an error around a cause, which is logged but never shown.
func Wrap(cause error, code Code, message string) *Error {
	return &Error{Code: code, Message: message, cause: cause}
}

// Fields makes an Invalid error that names every wrong field.
func Fields(fields ...field.Error) *Error {
	return &Error{Code: Invalid, Message: "The request has invalid fields.", Fields: fields}
}

// OrNil is Fields, or nil when nothing is wrong.
func OrNil(fields []field.Error) error {
	if len(fields) == 0 {
		return nil
	}
	return Fields(fields...)
}

// Join makes one error of several, with the fields of all that are Invalid; nil
// when all are nil. Another kind of error comes first, alone.
func Join(errs ...error) error {
	var fields []field.Error
	for _, err := range errs {
		var e *Error
		switch {
		case err == nil:
		case errors.As(err, &e) && e.Code == Invalid:
			fields = append(fields, e.Fields...)
		default:
			return err
		}
	}
	return OrNil(fields)
}

// Error is for logs: it includes the cause.
func (e *Error) Error() string {
	text := string(e.Code) + ": " + e.Message
	for _, f := range e.Fields {
		text += "; " + f.Field + ": " + f.Message
	}
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.cause }

// CodeOf returns the code of the first fault in err's chain; an error that is
// none is Internal, and nil has no code.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}
