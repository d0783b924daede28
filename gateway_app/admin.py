"""The admin: where operators retune the running system; each save comes into force within a second."""

from __future__ import annotations

from django.contrib import admin

from gateway_app.adminpages.canaryadmin import CanaryAdmin
from gateway_app.adminpages.eventadmin import EventAdmin
from gateway_app.adminpages.historyadmin import RevisionAdmin
from gateway_app.adminpages.modeladmin import ModelRecordAdmin
from gateway_app.adminpages.tuningadmin import TuningAdmin
from gateway_app.adminpages.workeradmin import WorkerAdmin
from gateway_app.models import Canary, Event, ModelRecord, Revision, Tuning, Worker
from gateway_app.signin import SignInForm

admin.site.site_header = "Inference gateway"
admin.site.site_title = "Inference gateway"
admin.site.index_title = "Configuration"
admin.site.site_url = "/"
admin.site.login_form = SignInForm
admin.site.register(ModelRecord, ModelRecordAdmin)
admin.site.register(Revision, RevisionAdmin)
admin.site.register(Tuning, TuningAdmin)
admin.site.register(Worker, WorkerAdmin)
admin.site.register(Event, EventAdmin)
admin.site.register(Canary, CanaryAdmin)
