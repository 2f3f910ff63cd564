"""The application class under the name of the module where it used to live."""

from fasterapi import APIRouter, App, FastAPI

__all__ = ["APIRouter", "App", "FastAPI"]
